export { renderConfiguration, renderHelmEnv, renderHelmEnvSchema } from './render.ts'
export { type Config, loadConfig, maskedConfig, SETTINGS } from './settings.ts'
