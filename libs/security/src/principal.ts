/** Who is calling, once that is proven. */
export interface Principal {
  readonly name: string
}
