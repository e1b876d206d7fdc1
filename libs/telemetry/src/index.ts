export { type Logger, openLog, reportTo } from './log.ts'
export {
  type Count,
  METRICS,
  Metrics,
  QUEUES_MEASURED_MAX,
  type QueueGauge,
  renderMetrics,
} from './metrics.ts'
export {
  readTraceContext,
  TRACE_FIELDS,
  type TraceContext,
  writeTraceContext,
} from './trace-context.ts'
export {
  contextOf,
  endSpan,
  type Operation,
  openTracing,
  type Span,
  type SpanOptions,
  Tracing,
} from './tracing.ts'
