import * as mediasoup from 'mediasoup';

import remote from './remote.js';

remote(mediasoup);
