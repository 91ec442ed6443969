// Command otlp is the OpenTelemetry Collector's own OTLP receiver, which prints what it received: first a line
// with its addresses, then a line of JSON for each span. It ends when its stdin does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func main() {
	http := flag.String("http", "127.0.0.1:0", "where OTLP over HTTP is received")
	grpc := flag.String("grpc", "127.0.0.1:0", "where OTLP over gRPC is received")
	refuse := flag.Int64("refuse", 0, "how many batches are refused, as an overloaded collector does, before the first is taken")
	flag.Parse()
	if err := run(*http, *grpc, *refuse); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(http, grpc string, refuse int64) error {
	ctx := context.Background()
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig().(*otlpreceiver.Config)
	config.Protocols.HTTP.GetOrInsertDefault().ServerConfig.NetAddr.Endpoint = http
	config.Protocols.GRPC.GetOrInsertDefault().NetAddr.Endpoint = grpc

	// The receiver tells its addresses to its log alone.
	core, said := observer.New(zapcore.InfoLevel)
	telemetry := componenttest.NewNopTelemetrySettings()
	telemetry.Logger = zap.New(core)
	settings := receiver.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}

	next, err := consumer.NewTraces(printer(refuse))
	if err != nil {
		return err
	}
	traces, err := factory.CreateTraces(ctx, settings, config, next)
	if err != nil {
		return err
	}
	if err := traces.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	write([]any{map[string]any{
		"http": endpoint(said, "Starting HTTP server"),
		"grpc": endpoint(said, "Starting GRPC server"),
	}})
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, traces.Shutdown(ctx))
}

func endpoint(said *observer.ObservedLogs, message string) any {
	return said.FilterMessage(message).All()[0].ContextMap()["endpoint"]
}

// printer prints every batch but the first few, which it refuses.
func printer(refuse int64) consumer.ConsumeTracesFunc {
	var seen atomic.Int64
	return func(_ context.Context, batch ptrace.Traces) error {
		if seen.Add(1) <= refuse {
			return errors.New("refused, as was asked")
		}
		write(lines(batch))
		return nil
	}
}

// write puts whole lines out at once: batches arrive in parallel.
func write(lines []any) {
	var text []byte
	for _, line := range lines {
		encoded, err := json.Marshal(line)
		if err != nil {
			panic(err)
		}
		text = append(append(text, encoded...), '\n')
	}
	// Nobody reads any more: the end of stdin follows.
	_, _ = os.Stdout.Write(text)
}
