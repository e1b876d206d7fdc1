export {
  Access,
  type AccessOptions,
} from './access.ts'
export { keptPassword } from './admin-password.ts'
export { newApiKey } from './api-keys.ts'
export { Credentials } from './credentials.ts'
export {
  ACCESS_KINDS,
  type AccessKind,
  ApiKeyDocument,
  DataKeyDocument,
  type Directory,
  KeyPermission,
  PermissionDocument,
  parseUserName,
  readDocument,
  Tags,
  TopicPermissionDocument,
  TopicRule,
  UserDocument,
} from './documents.ts'
export { Grants } from './grants.ts'
export { type KeyEncryptionKey, parseKeys } from './key-encryption.ts'
export { Kms } from './kms.ts'
export { hashPassword, importHash } from './passwords.ts'
export {
  describePrincipal,
  type Operation,
  type Principal,
  TAGS,
  type Tag,
} from './principal.ts'
export { type Resource, refusalText } from './resource.ts'
export {
  keyFingerprint,
  SIGNING_SCHEMES,
  signingKeyError,
  type WebhookSigner,
  webhookPublicKey,
  webhookSigner,
} from './standard-webhooks.ts'
export { type TokenOptions, Tokens } from './tokens.ts'
