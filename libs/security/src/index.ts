export { Credentials, keptPassword } from './credentials.ts'
export type { Principal } from './principal.ts'
export {
  keyFingerprint,
  SIGNING_SCHEMES,
  signingKeyError,
  type WebhookSigner,
  webhookPublicKey,
  webhookSigner,
} from './standard-webhooks.ts'
