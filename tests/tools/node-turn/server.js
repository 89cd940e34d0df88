// A TURN server in JavaScript, for the tests of our client of it.
//
//	node server.js PORT
//
// It speaks udp alone, and says nothing.
const Turn = require("node-turn");

new Turn({
  listeningIps: ["127.0.0.1"],
  relayIps: ["127.0.0.1"],
  listeningPort: Number(process.argv[2]),
  authMech: "long-term",
  realm: "example.org",
  credentials: { alice: "s3cret" },
}).start();
