/** A room of the application, as the exporter shows it in families that count rooms and peers. */
export interface Room {
  id: string | number;
  /** How many peers are in it; left out if the application does not know. */
  peers?: number;
}

/**
 * Tells the agent of rooms, of which mediasoup knows nothing: a list, or a function that returns one whenever it is asked.
 * The function is called once in each walk and must not wait for anything. `undefined` takes them back.
 */
export function setRooms(rooms: Iterable<Room> | (() => Iterable<Room>) | undefined): void;

/**
 * Hands mediasoup to the agent, before the first worker is created. Only needed by applications that are bundled into one file,
 * mediasoup included: everywhere else the agent notices when mediasoup is loaded.
 */
export function attach(mediasoup: { readonly version: string; readonly observer: object }): void;
