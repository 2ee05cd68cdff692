export type * from './admin-api';
/** Path of the binary: STICKYD_BINARY, else the one of the package for this platform. */
export function binary(): string;
/** Path of the script that links a Node.js worker to the bus, for NODE_OPTIONS=--require. */
export const busPreload: string;
