package main

import "go.opentelemetry.io/collector/pdata/ptrace"

// line is the JSON that is printed for a span.
type line struct {
	Service      string         `json:"service"`
	Resource     map[string]any `json:"resource"`
	Scope        string         `json:"scope"`
	TraceID      string         `json:"trace_id"`
	SpanID       string         `json:"span_id"`
	ParentSpanID string         `json:"parent_span_id"`
	TraceState   string         `json:"trace_state"`
	Flags        uint32         `json:"flags"`
	Name         string         `json:"name"`
	Kind         string         `json:"kind"`
	Start        uint64         `json:"start_unix_nano"`
	End          uint64         `json:"end_unix_nano"`
	Attributes   map[string]any `json:"attributes"`
	Events       []event        `json:"events"`
	Links        []link         `json:"links"`
	Status       status         `json:"status"`
}

type event struct {
	Time       uint64         `json:"time_unix_nano"`
	Name       string         `json:"name"`
	Attributes map[string]any `json:"attributes"`
}

type link struct {
	TraceID string `json:"trace_id"`
	SpanID  string `json:"span_id"`
}

type status struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func lines(batch ptrace.Traces) []any {
	found := []any{}
	for _, resource := range batch.ResourceSpans().All() {
		attributes := resource.Resource().Attributes().AsRaw()
		service, _ := attributes["service.name"].(string)
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				described := describe(span)
				described.Service, described.Resource = service, attributes
				described.Scope = scope.Scope().Name()
				found = append(found, described)
			}
		}
	}
	return found
}

func describe(span ptrace.Span) line {
	events, links := []event{}, []link{}
	for _, one := range span.Events().All() {
		events = append(events, event{uint64(one.Timestamp()), one.Name(), one.Attributes().AsRaw()})
	}
	for _, one := range span.Links().All() {
		links = append(links, link{one.TraceID().String(), one.SpanID().String()})
	}
	return line{
		TraceID:      span.TraceID().String(),
		SpanID:       span.SpanID().String(),
		ParentSpanID: span.ParentSpanID().String(),
		TraceState:   span.TraceState().AsRaw(),
		Flags:        span.Flags(),
		Name:         span.Name(),
		Kind:         span.Kind().String(),
		Start:        uint64(span.StartTimestamp()),
		End:          uint64(span.EndTimestamp()),
		Attributes:   span.Attributes().AsRaw(),
		Events:       events,
		Links:        links,
		Status:       status{span.Status().Code().String(), span.Status().Message()},
	}
}
