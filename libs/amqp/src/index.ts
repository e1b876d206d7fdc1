export { AmqpError } from './amqp-error.ts'
export {
  decodeProperties,
  encodeProperties,
  PROPERTIES_DECODED_BYTES_MAX,
  type Properties,
} from './properties.ts'
export { type FieldValue, TABLE_DEPTH_MAX, type Table } from './values.ts'
