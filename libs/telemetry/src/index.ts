export { type Logger, openLog, reportTo } from './log.ts'
export {
  type Count,
  METRICS,
  Metrics,
  QUEUES_MEASURED_MAX,
  type QueueGauge,
  renderMetrics,
} from './metrics.ts'
