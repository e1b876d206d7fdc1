/** Sends all metrics by OTLP/HTTP, each so often. The SDK is loaded only when this is on. */
import type { HrTime } from '@opentelemetry/api'
import type { MetricData, MetricProducer } from '@opentelemetry/sdk-metrics'
import type { Family, Series } from './exposition.ts'
import type { Histogram } from './histogram.ts'
import type { Metrics } from './metrics.ts'
import type { TracingOptions } from './tracing.ts'

interface OtlpMetricsOptions extends Omit<TracingOptions, 'ratio' | 'report'> {
  readonly everyMs: number
}

const EXPORT_MS_MAX = 10_000

/** Starts exporting; returns what ends it, after a last export. */
export async function exportMetrics(
  metrics: Metrics,
  options: OtlpMetricsOptions,
): Promise<() => Promise<void>> {
  const { endpoint, headers, everyMs, serviceName, serviceVersion, instance } = options
  const [sdk, { OTLPMetricExporter }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/sdk-metrics'),
    import('@opentelemetry/exporter-metrics-otlp-http'),
    import('@opentelemetry/resources'),
  ])
  const resource = resourceFromAttributes({
    'service.name': serviceName,
    'service.version': serviceVersion,
    'service.instance.id': instance,
  })
  const startTime = hrTime(Date.now())
  const producer: MetricProducer = {
    async collect() {
      const endTime = hrTime(Date.now())
      const families = (await metrics.families()).map(withFinite)
      const data = families
        .filter(({ series }) => series.length > 0)
        .map((family) => metricData(sdk, family, startTime, endTime))
      const scopeMetrics = [{ scope: { name: 'sluice' }, metrics: data }]
      return { resourceMetrics: { resource, scopeMetrics }, errors: [] }
    },
  }
  const reader = new sdk.PeriodicExportingMetricReader({
    exporter: new OTLPMetricExporter({
      url: `${endpoint.replace(/\/$/, '')}/v1/metrics`,
      headers: { ...headers },
      timeoutMillis: EXPORT_MS_MAX,
    }),
    exportIntervalMillis: everyMs,
    exportTimeoutMillis: Math.min(everyMs, EXPORT_MS_MAX),
    metricProducers: [producer],
  })
  const provider = new sdk.MeterProvider({ resource, readers: [reader] })
  return () => provider.shutdown()
}

/** JSON has no infinity: a queue that does not drain has no time until it is empty. */
function withFinite(family: Family): Family {
  const { series } = family
  return { ...family, series: series.filter(({ value }) => value !== Number.POSITIVE_INFINITY) }
}

type Sdk = typeof import('@opentelemetry/sdk-metrics')

function metricData(
  { AggregationTemporality, DataPointType }: Sdk,
  { name, kind, doc, series }: Family,
  startTime: HrTime,
  endTime: HrTime,
): MetricData {
  const unit = name.includes('_seconds') ? 's' : name.includes('_bytes') ? 'By' : ''
  const common = {
    descriptor: { name, description: doc, unit, valueType: 1 },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
  }
  const point = <V>({ labels: attributes }: Series, value: V) => ({
    startTime,
    endTime,
    attributes,
    value,
  })
  if (kind === 'histogram') {
    const dataPoints = series.map((one) => point(one, histogramValue(one.value as Histogram)))
    return { ...common, dataPointType: DataPointType.HISTOGRAM, dataPoints }
  }
  const dataPoints = series.map((one) => point(one, one.value as number))
  if (kind === 'gauge') return { ...common, dataPointType: DataPointType.GAUGE, dataPoints }
  return { ...common, dataPointType: DataPointType.SUM, isMonotonic: true, dataPoints }
}

function histogramValue(histogram: Histogram) {
  const { bounds, counts, sum, count } = histogram
  return { buckets: { boundaries: [...bounds], counts: [...counts] }, sum, count }
}

function hrTime(ms: number): HrTime {
  return [Math.floor(ms / 1_000), (ms % 1_000) * 1_000_000]
}
