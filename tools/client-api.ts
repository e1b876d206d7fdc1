/**
 * docs/client-api.md: what the client exports, from its types and docstrings. The compiler writes
 * the declarations, without bodies and with every type said; this turns them into a page.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './tree.ts'

const TSC = join(ROOT, 'node_modules/.bin/tsc')
const PROJECT = join(ROOT, 'libs/client/tsconfig.build.json')

/** A declaration, or a member of one: what is said of it, and its text. */
interface Declared {
  readonly doc: string
  readonly text: string
}

export function renderClientApi(): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-api-'))
  try {
    execFileSync(TSC, ['-p', PROJECT, '--emitDeclarationOnly', '--outDir', folder])
    const index = readFileSync(join(folder, 'index.d.ts'), 'utf8')
    const lines = [
      '# The client: reference',
      '',
      'Everything that `@sluice/client` exports; [the client](client.md) is the way in. Generated from the',
      'docstrings in `libs/client/src` by `npm run generate`.',
    ]
    for (const [, names = '', file = ''] of index.matchAll(/\{([^}]*)\} from '\.\/([^']*)\.ts'/g)) {
      const text = readFileSync(join(folder, `${file}.d.ts`), 'utf8')
      for (const name of names.split(',')) {
        const wanted = name.replace(/\btype\b/, '').trim()
        if (wanted !== '') lines.push('', ...rendered(wanted, text))
      }
    }
    return `${lines.join('\n')}\n`
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function rendered(name: string, text: string): string[] {
  const all = declared(
    text.split('\n'),
    /^(?:export )?(?:declare )?(?:class|interface|type|const|function|async)/,
  )
  const own = new RegExp(`\\b(?:class|interface|type|const|function) ${name}\\b`)
  const found = all.find((one) => own.test(one.text.split('\n')[0]!))
  if (!found) throw new Error(`${name} is exported, and declared nowhere`)
  const body = found.text.replace(/^export (?:declare )?/, '')
  const lines = [`## ${name}`, '', ...(found.doc === '' ? [] : [found.doc, ''])]
  if (!/^(?:class|interface)/.test(body)) return [...lines, '```ts', body, '```']
  const [head = '', ...rest] = body.split('\n')
  lines.push('```ts', head.replace(/\s*\{\}?$/, ''), '```', '')
  for (const member of declared(
    rest.map((line) => line.slice(4)),
    /^[\w[]/,
  )) {
    if (/^Made by/.test(member.doc)) continue
    const item = `- \`${member.text.replace(/;$/, '').replaceAll(/\s+/g, ' ')}\``
    if (member.doc.includes('\n\n')) lines.push(item, '', indented(member.doc), '')
    else lines.push(member.doc === '' ? item : `${item}\n${indented(member.doc)}`)
  }
  return lines
}

/** The statements that begin like this, each up to its end, with the comments before them. */
function declared(lines: readonly string[], begins: RegExp): Declared[] {
  const found: Declared[] = []
  let doc: string[] = []
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at]!
    if (line.startsWith('/**')) {
      doc = []
      for (; at < lines.length; at++) {
        doc.push(lines[at]!)
        if (lines[at]!.includes('*/')) break
      }
    } else if (begins.test(line)) {
      const text = [line]
      while (!isWhole(text) && at + 1 < lines.length) text.push(lines[++at]!)
      found.push({ doc: prose(doc), text: text.join('\n') })
      doc = []
    }
  }
  return found
}

/** Whether every bracket is closed and the statement is at its end. */
function isWhole(lines: readonly string[]): boolean {
  const code = lines.filter((line) => !/^\s*\/?\*/.test(line)).join('\n')
  const plain = code.replaceAll(/'[^']*'|"[^"]*"|`[^`]*`|=>/g, '')
  const depth = (open: string, close: string) =>
    plain.split(open).length - plain.split(close).length
  if (depth('{', '}') + depth('(', ')') + depth('[', ']') + depth('<', '>') > 0) return false
  return /[;}]\s*$/.test(plain)
}

/** A comment without its stars. */
function prose(comment: readonly string[]): string {
  return comment
    .map((line) => line.replace(/^\s*\/?\*+\/?\s?/, '').replace(/\s*\*\/$/, ''))
    .join('\n')
    .trim()
}

function indented(text: string): string {
  return text.replaceAll(/^(?=.)/gm, '  ')
}
