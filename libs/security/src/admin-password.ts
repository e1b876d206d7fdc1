/** The administrator's password where no setting gives one: generated, and kept in a file. */
import { randomBytes } from 'node:crypto'
import { chmod, link, mkdir, readFile, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const PASSWORD_FILE = 'admin-password'

/** 24 random bytes: 192 bits cannot be guessed, and 32 characters can be pasted. */
const PASSWORD_BYTES = 24

/**
 * The admin password kept in `<dataDir>/admin-password`, mode 0600; generated on the first start.
 * Two processes that start at once agree: the file appears whole or not at all, and who comes
 * second reads the first one's. Throws when the folder cannot be written or the file is empty.
 */
export async function keptPassword(dataDir: string): Promise<string> {
  const path = join(dataDir, PASSWORD_FILE)
  const kept = await readPassword(path)
  if (kept !== undefined) return kept

  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const draft = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`
  await writeFile(draft, `${randomBytes(PASSWORD_BYTES).toString('base64url')}\n`, {
    mode: 0o600,
    flag: 'wx',
  })
  try {
    await link(draft, path) // fails when it exists, unlike rename
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    await unlink(draft)
  }
  const agreed = await readPassword(path)
  if (agreed === undefined) throw new Error(`${path} vanished while it was created`)
  return agreed
}

async function readPassword(path: string): Promise<string | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  const password = text.trim()
  if (password === '') throw new Error(`${path} is empty: delete it, and a new password is made`)
  await chmod(path, 0o600) // a copy or a restore may have opened it to others
  return password
}
