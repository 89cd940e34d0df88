// pion is a TURN server of the Pion project, for the tests of our client of it.
//
//	pion CERTIFICATE KEY
//
// It prints where it listens: over udp, tcp and tls, over udp with credentials of a shared secret, and over udp without relaying to anybody.
// Each allocation that ends is a line as well.
package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

const (
	realm    = "example.org"
	user     = "alice"
	password = "s3cret"
	shared   = "sh4red"
)

func main() {
	certificate, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	check(err)
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	packets := func(kind string, allowed bool) []turn.PacketConnConfig {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		check(err)
		fmt.Printf("%s %s\n", kind, conn.LocalAddr())
		handler := func(net.Addr, net.IP) bool { return allowed }
		return []turn.PacketConnConfig{{PacketConn: conn, RelayAddressGenerator: relay, PermissionHandler: handler}}
	}
	streams := func(kind string, config *tls.Config) turn.ListenerConfig {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		check(err)
		fmt.Printf("%s %s\n", kind, listener.Addr())
		if config != nil {
			listener = tls.NewListener(listener, config)
		}
		return turn.ListenerConfig{Listener: listener, RelayAddressGenerator: relay}
	}
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}}
	secret := turn.LongTermTURNRESTAuthHandler(shared, logging.NewDefaultLoggerFactory().NewLogger("auth"))
	serve(packets("udp", true), []turn.ListenerConfig{streams("tcp", nil), streams("tls", secure)}, known)
	serve(packets("shared", true), nil, secret)
	serve(packets("closed", false), nil, known)
	fmt.Println("ready -")
	select {}
}

func serve(packets []turn.PacketConnConfig, streams []turn.ListenerConfig, credentials turn.AuthHandler) {
	_, err := turn.NewServer(turn.ServerConfig{
		Realm:             realm,
		AuthHandler:       credentials,
		PacketConnConfigs: packets,
		ListenerConfigs:   streams,
		EventHandler: turn.EventHandler{
			OnAllocationCreated: func(_, _ net.Addr, _, username, _ string, _ net.Addr, _ int) {
				fmt.Printf("created %s\n", username)
			},
			OnAllocationDeleted: func(_, _ net.Addr, _, username, _ string) { fmt.Printf("deleted %s\n", username) },
		},
		AllocationLifetime: 10 * time.Minute,
	})
	check(err)
}

// known admits the one user that there is.
func known(attributes *turn.RequestAttributes) (string, []byte, bool) {
	if attributes.Username != user {
		return "", nil, false
	}
	return user, turn.GenerateAuthKey(user, attributes.Realm, password), true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
