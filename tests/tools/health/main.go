// health is a gRPC server with the health service of the gRPC project itself, for the tests of our client of it.
//
//	health CERTIFICATE KEY
//
// It prints where it listens: with the service, with TLS as well, and without the service.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	certificate, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	if err != nil {
		panic(err)
	}
	services := health.NewServer()
	services.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	services.SetServingStatus("undecided", healthpb.HealthCheckResponse_UNKNOWN)
	services.SetServingStatus("unheard", healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	for _, kind := range []string{"plain", "tls", "bare"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		options := []grpc.ServerOption{grpc.UnaryInterceptor(refuse)}
		if kind == "tls" {
			options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
		}
		server := grpc.NewServer(options...)
		if kind != "bare" {
			healthpb.RegisterHealthServer(server, services)
		}
		go func() { panic(server.Serve(listener)) }()
		fmt.Printf("%s %s\n", kind, listener.Addr())
	}
	select {}
}

// slow is longer than the timeouts of the tests. It is not for ever: there are clients without any timeout.
const slow = 8 * time.Second

// refuse answers with the code that the name of the service asks for, or late, or only to who has the token that is in the name.
func refuse(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	service := request.(*healthpb.HealthCheckRequest).Service
	switch service {
	case "slow":
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(slow):
		}
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	case "token":
		if given, _ := metadata.FromIncomingContext(ctx); len(given["x-token"]) != 1 || given["x-token"][0] != "s3cret" {
			return nil, status.Error(codes.Unauthenticated, "no token")
		}
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	}
	if token, found := strings.CutPrefix(service, "bearer "); found {
		if given, _ := metadata.FromIncomingContext(ctx); !slices.Equal(given["authorization"], []string{"Bearer " + token}) {
			return nil, status.Error(codes.Unauthenticated, "no such token")
		}
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
	}
	var code codes.Code
	if _, err := fmt.Sscanf(service, "code-%d", &code); err == nil {
		return nil, status.Error(code, "as asked")
	}
	return next(ctx, request)
}
