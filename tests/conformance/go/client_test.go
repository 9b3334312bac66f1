package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

const timeout = 20 * time.Second

// next returns the next event of a channel, or fails the test after a time limit.
func next[T any](t *testing.T, events chan T, what string) T {
	t.Helper()
	select {
	case event := <-events:
		return event
	case <-time.After(timeout):
		t.Fatalf("no %s within %v", what, timeout)
		panic("not reached")
	}
}

// request sends a request to the server without the proxy, or to the control port.
func request(t *testing.T, method, address string, body any) string {
	t.Helper()
	encoded, err := json.Marshal(body)
	check(t, err)
	request, err := http.NewRequest(method, address, bytes.NewReader(encoded))
	check(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, address, response.StatusCode, text)
	}
	return string(text)
}

// control cuts, mends or restarts the server.
func control(t *testing.T, command string) {
	t.Helper()
	request(t, "POST", os.Getenv("CONTROL")+"/"+command, nil)
}

// sentBytes returns the number of bytes that the server has sent to clients.
func sentBytes(t *testing.T) int {
	t.Helper()
	sent, err := strconv.Atoi(request(t, "GET", os.Getenv("CONTROL")+"/sent_bytes", nil))
	check(t, err)
	return sent
}

// publish publishes from the server.
func publish(t *testing.T, room string, data any, tags map[string]string) {
	t.Helper()
	query := url.Values{}
	for name, value := range tags {
		query.Set(name, value)
	}
	request(t, "POST", os.Getenv("SERVER")+"/rooms/"+room+"?"+query.Encode(), data)
}

// user sends a command about a user to the server, and returns the answer.
func user(t *testing.T, method, name, command string) string {
	t.Helper()
	return request(t, method, os.Getenv("SERVER")+"/users/"+name+"/"+command, nil)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, expected, actual T) {
	t.Helper()
	if fmt.Sprint(expected) != fmt.Sprint(actual) {
		t.Fatalf("expected %v, got %v", expected, actual)
	}
}

// refused fails the test if the error does not have this code of the protocol.
func refused(t *testing.T, code uint32, err error) {
	t.Helper()
	var failure *centrifuge.Error
	if !errors.As(err, &failure) {
		t.Fatalf("expected the error %d, got %v", code, err)
	}
	equal(t, code, failure.Code)
}

// client is a client of the SDK whose events are in channels.
type client struct {
	*centrifuge.Client
	connecting   chan centrifuge.ConnectingEvent
	connected    chan centrifuge.ConnectedEvent
	disconnected chan centrifuge.DisconnectedEvent
	messages     chan centrifuge.MessageEvent
	subscribed   chan centrifuge.ServerSubscribedEvent
	publications chan centrifuge.ServerPublicationEvent
}

func newClient(t *testing.T, config centrifuge.Config) *client {
	config.MinReconnectDelay = 20 * time.Millisecond
	config.MaxReconnectDelay = 200 * time.Millisecond
	endpoint := "ws://" + os.Getenv("ADDRESS") + "/connection/websocket"
	create := centrifuge.NewJsonClient
	if os.Getenv("ENCODING") == "protobuf" {
		create = centrifuge.NewProtobufClient
	}
	c := &client{
		Client:       create(endpoint, config),
		connecting:   make(chan centrifuge.ConnectingEvent, 100),
		connected:    make(chan centrifuge.ConnectedEvent, 100),
		disconnected: make(chan centrifuge.DisconnectedEvent, 100),
		messages:     make(chan centrifuge.MessageEvent, 100),
		subscribed:   make(chan centrifuge.ServerSubscribedEvent, 100),
		publications: make(chan centrifuge.ServerPublicationEvent, 100),
	}
	c.OnConnecting(func(event centrifuge.ConnectingEvent) { c.connecting <- event })
	c.OnConnected(func(event centrifuge.ConnectedEvent) { c.connected <- event })
	c.OnDisconnected(func(event centrifuge.DisconnectedEvent) { c.disconnected <- event })
	c.OnMessage(func(event centrifuge.MessageEvent) { c.messages <- event })
	c.OnSubscribed(func(event centrifuge.ServerSubscribedEvent) { c.subscribed <- event })
	c.OnPublication(func(event centrifuge.ServerPublicationEvent) { c.publications <- event })
	t.Cleanup(c.Close)
	return c
}

// connect returns a connected client and its id. The user id may be empty.
func connect(t *testing.T, user string) (*client, string) {
	t.Helper()
	data, err := json.Marshal(map[string]string{"user": user})
	check(t, err)
	c := newClient(t, centrifuge.Config{Data: data})
	check(t, c.Connect())
	event := next(t, c.connected, "connected event")
	next(t, c.connecting, "connecting event")
	return c, event.ClientID
}

// subscription is a subscription of the SDK whose events are in channels.
type subscription struct {
	*centrifuge.Subscription
	subscribed   chan centrifuge.SubscribedEvent
	subscribing  chan centrifuge.SubscribingEvent
	unsubscribed chan centrifuge.UnsubscribedEvent
	publications chan centrifuge.PublicationEvent
	joins        chan centrifuge.JoinEvent
	leaves       chan centrifuge.LeaveEvent
}

func newSubscription(
	t *testing.T, c *client, channel string, config centrifuge.SubscriptionConfig,
) *subscription {
	t.Helper()
	created, err := c.NewSubscription(channel, config)
	check(t, err)
	s := &subscription{
		Subscription: created,
		subscribed:   make(chan centrifuge.SubscribedEvent, 100),
		subscribing:  make(chan centrifuge.SubscribingEvent, 100),
		unsubscribed: make(chan centrifuge.UnsubscribedEvent, 100),
		publications: make(chan centrifuge.PublicationEvent, 100),
		joins:        make(chan centrifuge.JoinEvent, 100),
		leaves:       make(chan centrifuge.LeaveEvent, 100),
	}
	s.OnSubscribed(func(event centrifuge.SubscribedEvent) { s.subscribed <- event })
	s.OnSubscribing(func(event centrifuge.SubscribingEvent) { s.subscribing <- event })
	s.OnUnsubscribed(func(event centrifuge.UnsubscribedEvent) { s.unsubscribed <- event })
	s.OnPublication(func(event centrifuge.PublicationEvent) { s.publications <- event })
	s.OnJoin(func(event centrifuge.JoinEvent) { s.joins <- event })
	s.OnLeave(func(event centrifuge.LeaveEvent) { s.leaves <- event })
	return s
}

// subscribe returns a subscription that the server has confirmed.
func subscribe(
	t *testing.T, c *client, channel string, config centrifuge.SubscriptionConfig,
) *subscription {
	t.Helper()
	s := newSubscription(t, c, channel, config)
	check(t, s.Subscribe())
	next(t, s.subscribed, "subscribed event")
	return s
}

// receive returns the next publication, and checks its data.
func (s *subscription) receive(t *testing.T, data string) centrifuge.PublicationEvent {
	t.Helper()
	event := next(t, s.publications, "publication "+data)
	equal(t, data, string(event.Data))
	return event
}
