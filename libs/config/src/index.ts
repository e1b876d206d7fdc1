export { renderConfiguration, renderHelmEnv } from './render.ts'
export { type Config, loadConfig, maskedConfig, SETTINGS } from './settings.ts'
