export { reaper } from './reaper.ts'
