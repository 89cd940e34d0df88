'use strict';

const mediasoup = require('mediasoup');

require('./remote.js')(mediasoup);
