// Command otlp runs the OpenTelemetry Collector's own OTLP receiver. It prints a line of JSON with its addresses, then
// a line of JSON for each span that it receives. It ends when its stdin ends.
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
	http := flag.String("http", "127.0.0.1:0", "the `address` for OTLP over HTTP")
	grpc := flag.String("grpc", "127.0.0.1:0", "the `address` for OTLP over gRPC")
	refuse := flag.Int64("refuse", 0, "the number of batches to refuse, like an overloaded collector, before the first is accepted")
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

	// The receiver reports its addresses only in its log.
	core, logs := observer.New(zapcore.InfoLevel)
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
		"http": endpoint(logs, "Starting HTTP server"),
		"grpc": endpoint(logs, "Starting GRPC server"),
	}})
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, traces.Shutdown(ctx))
}

func endpoint(logs *observer.ObservedLogs, message string) any {
	return logs.FilterMessage(message).All()[0].ContextMap()["endpoint"]
}

// printer returns a consumer that refuses the first batches and prints the others.
func printer(refuse int64) consumer.ConsumeTracesFunc {
	var seen atomic.Int64
	return func(_ context.Context, batch ptrace.Traces) error {
		if seen.Add(1) <= refuse {
			return errors.New("refused because of -refuse")
		}
		write(lines(batch))
		return nil
	}
}

// write prints all lines in one write, because batches arrive in parallel.
func write(lines []any) {
	var text []byte
	for _, line := range lines {
		encoded, err := json.Marshal(line)
		if err != nil {
			panic(err)
		}
		text = append(append(text, encoded...), '\n')
	}
	// Ignores errors: if the reader has gone, stdin ends soon.
	_, _ = os.Stdout.Write(text)
}
