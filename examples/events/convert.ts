/**
 * Makes earthquakes.ndjson from a feed of the USGS: an event a line, oldest first, with the fields
 * that the example reads.
 *
 *   node examples/events/convert.ts all_week.geojson > examples/events/earthquakes.ndjson
 */
import { readFileSync } from 'node:fs'

interface Feature {
  readonly id: string
  readonly properties: {
    readonly mag: number
    readonly place: string
    /** ms since 1970. */
    readonly time: number
    readonly type: string
    readonly status: string
    readonly net: string
    readonly tsunami: number
  }
  readonly geometry: { readonly coordinates: readonly [number, number, number] }
}

const [file] = process.argv.slice(2)
if (file === undefined) throw new Error('Give the GeoJSON file of a USGS feed.')
const feed = JSON.parse(readFileSync(file, 'utf8')) as { features: Feature[] }

const round = (degrees: number) => Math.round(degrees * 1_000) / 1_000

for (const { id, properties, geometry } of feed.features.toSorted(
  (a, b) => a.properties.time - b.properties.time || (a.id < b.id ? -1 : 1),
)) {
  const { mag, place, time, type, status, net, tsunami } = properties
  const [longitude, latitude, depthKm] = geometry.coordinates
  const event = {
    id,
    time: new Date(time).toISOString(),
    network: net,
    type,
    magnitude: mag,
    place,
    longitude: round(longitude),
    latitude: round(latitude),
    depthKm,
    ...(tsunami !== 0 && { tsunami: true }),
    status,
  }
  process.stdout.write(`${JSON.stringify(event)}\n`)
}
