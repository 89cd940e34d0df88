/** A room of the application, as exported in families that count rooms and peers. */
export interface Room {
  id: string | number;
  /** Number of peers in the room; omitted if unknown. */
  peers?: number;
}

/**
 * Sets the rooms, which mediasoup does not know: a list, or a function that returns one. The function is called once for each
 * document and must not block. `undefined` removes them.
 */
export function setRooms(rooms: Iterable<Room> | (() => Iterable<Room>) | undefined): void;

/**
 * Passes mediasoup to the agent, before the first worker is created. Only needed by applications that are bundled into one file,
 * mediasoup included: otherwise the agent detects when mediasoup is loaded.
 */
export function attach(mediasoup: { readonly version: string; readonly observer: object }): void;
