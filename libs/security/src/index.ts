export { Credentials, keptPassword } from './credentials.ts'
export type { Principal } from './principal.ts'
