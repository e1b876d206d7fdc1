export { ERROR_CODES } from './errors.ts'
