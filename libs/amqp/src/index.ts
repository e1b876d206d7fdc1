export { addHeaders } from './add-headers.ts'
export { AmqpError, REPLY_CODES } from './amqp-error.ts'
export { Channel, type ChannelHandler, type ChannelMethod } from './channel.ts'
export type { Confirms } from './confirms.ts'
export { Connection } from './connection.ts'
export type { ConnectionHandler, ConnectionOptions } from './connection-handler.ts'
export { FRAME, FRAME_END, FrameReader, type OnFrame } from './frame-reader.ts'
export { encodeContent, encodeMethod, FrameWriter } from './frame-writer.ts'
export { PROTOCOL_HEADER, type Tuning } from './handshake.ts'
export { Output } from './output.ts'
export {
  decodeProperties,
  encodeProperties,
  PROPERTIES_DECODED_BYTES_MAX,
  type Properties,
} from './properties.ts'
export type { Credentials, Mechanism } from './sasl.ts'
export {
  type ClientMethod,
  METHOD_IDS,
  type Method,
  type MethodName,
  readServerMethod,
  type ServerMethod,
} from './spec.ts'
export { Unacked } from './unacked.ts'
export { type FieldValue, type Table, ValueReader } from './values.ts'
