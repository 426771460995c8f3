/** The server that the pages came from, with the key that the user gave. */

import { Server } from '../lib/server.js';
import { readKey } from './key.js';

export const server = new Server({ url: location.origin, key: readKey });
