// Package conformance tests the official Go SDK against a server of this project.
//
// tests/conformance/test_go_sdk.py starts the server and sets the variables of the
// environment: ENCODING is json or protobuf. controlled_server.py explains the others.
package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// features has a scenario for each feature of tests/conformance/features.py.
var features = []struct {
	name string
	run  func(*testing.T)
}{
	{"connect", testConnect},
	{"subscribe", testSubscribe},
	{"publish", testPublish},
	{"presence", testPresence},
	{"joins", testJoins},
	{"history", testHistory},
	{"rpc", testRPC},
	{"messages", testMessages},
	{"server_subscriptions", testServerSubscriptions},
	{"codes", testCodes},
	{"tokens", testTokens},
	{"subscription_tokens", testSubscriptionTokens},
	{"recovery", testRecovery},
	{"restart", testRestart},
	{"finish", testFinish},
	{"state", testState},
	{"filter", testFilter},
	{"delta", testDelta},
}

// absent has the features without a scenario, and the option of a subscription of an SDK
// that has the feature.
var absent = map[string]string{
	"since": "Since",
}

var ctx = context.Background()

func TestFeatures(t *testing.T) {
	for _, feature := range features {
		t.Run(feature.name, feature.run)
	}
}

// TestAbsent fails if the SDK has a feature for which there is no scenario.
func TestAbsent(t *testing.T) {
	options := reflect.TypeFor[centrifuge.SubscriptionConfig]()
	for feature, option := range absent {
		t.Run(feature, func(t *testing.T) {
			if _, found := options.FieldByName(option); found {
				t.Fatalf("the SDK has the option %s: write a scenario", option)
			}
		})
	}
}

func testConnect(t *testing.T) {
	c, id := connect(t, "ann")
	if len(id) < 20 {
		t.Fatalf("the client id %q is too short", id)
	}
	check(t, c.Disconnect())
	next(t, c.disconnected, "disconnected event")
}

func testSubscribe(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-subscribe", centrifuge.SubscriptionConfig{})
	publish(t, "go-subscribe", "é \"x\" ✓", map[string]string{"level": "info"})
	event := s.receive(t, `"é \"x\" ✓"`)
	equal(t, 1, event.Offset)
	equal(t, map[string]string{"level": "info"}, event.Tags)
	check(t, s.Unsubscribe())
	next(t, s.unsubscribed, "unsubscribed event")
}

func testPublish(t *testing.T) {
	c, id := connect(t, "ann")
	s := subscribe(t, c, "rooms:go-publish", centrifuge.SubscriptionConfig{})
	_, err := s.Publish(ctx, []byte(`{"text":"hello"}`))
	check(t, err)
	event := s.receive(t, `{"text":"hello"}`)
	equal(t, id, event.Info.Client)
	equal(t, "ann", event.Info.User)
	equal(t, `{"name":"ann"}`, string(event.Info.ConnInfo))
	_, err = s.Publish(ctx, []byte(`"refuse"`))
	refused(t, 103, err)
	_, err = c.Publish(ctx, "rooms:go-other", []byte("1"))
	refused(t, 103, err)
}

func testPresence(t *testing.T) {
	ann, _ := connect(t, "ann")
	s := subscribe(t, ann, "rooms:go-presence", centrifuge.SubscriptionConfig{})
	bob, bobID := connect(t, "bob")
	subscribe(t, bob, "rooms:go-presence", centrifuge.SubscriptionConfig{})
	present, err := s.Presence(ctx)
	check(t, err)
	equal(t, 2, len(present.Clients))
	equal(t, "bob", present.Clients[bobID].User)
	stats, err := s.PresenceStats(ctx)
	check(t, err)
	equal(t, []int{2, 2}, []int{stats.NumClients, stats.NumUsers})
	_, err = ann.Presence(ctx, "rooms:go-other")
	refused(t, 103, err)
}

func testJoins(t *testing.T) {
	config := centrifuge.SubscriptionConfig{JoinLeave: true}
	ann, annID := connect(t, "ann")
	s := subscribe(t, ann, "rooms:go-joins", config)
	if event := next(t, s.joins, "join"); event.Client != annID {
		t.Fatalf("the first join is of %v", event)
	}
	bob, bobID := connect(t, "bob")
	subscribe(t, bob, "rooms:go-joins", centrifuge.SubscriptionConfig{})
	equal(t, bobID, next(t, s.joins, "join").Client)
	check(t, bob.Disconnect())
	equal(t, bobID, next(t, s.leaves, "leave").Client)
}

func testHistory(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-history", centrifuge.SubscriptionConfig{})
	for n := 1; n <= 5; n++ {
		publish(t, "go-history", n, nil)
	}
	offsets := func(options ...centrifuge.HistoryOption) (found []uint64) {
		page, err := s.History(ctx, options...)
		check(t, err)
		for _, publication := range page.Publications {
			equal(t, strconv.FormatUint(publication.Offset, 10), string(publication.Data))
			found = append(found, publication.Offset)
		}
		return found
	}
	equal(t, []uint64{1, 2, 3, 4, 5}, offsets(centrifuge.WithHistoryLimit(-1)))
	equal(t, []uint64{5, 4}, offsets(
		centrifuge.WithHistoryLimit(2), centrifuge.WithHistoryReverse(true),
	))
	top, err := s.History(ctx)
	check(t, err)
	equal(t, 0, len(top.Publications))
	equal(t, 5, top.Offset)
	since := &centrifuge.StreamPosition{Offset: 3, Epoch: top.Epoch}
	equal(t, []uint64{4, 5}, offsets(
		centrifuge.WithHistoryLimit(10), centrifuge.WithHistorySince(since),
	))
	since.Epoch = "other"
	_, err = s.History(ctx, centrifuge.WithHistorySince(since))
	refused(t, 112, err)
}

func testRPC(t *testing.T) {
	c, _ := connect(t, "")
	result, err := c.RPC(ctx, "sum", []byte("[1,2,3]"))
	check(t, err)
	equal(t, `{"sum":6}`, string(result.Data))
	_, err = c.RPC(ctx, "fail", []byte("null"))
	refused(t, 100, err)
	_, err = c.RPC(ctx, "unknown", []byte("null"))
	refused(t, 104, err)
}

func testMessages(t *testing.T) {
	c, _ := connect(t, "")
	check(t, c.Send(ctx, []byte(`"hello"`)))
	equal(t, `"echo"`, string(next(t, c.messages, "message").Data))
}

func testServerSubscriptions(t *testing.T) {
	c, _ := connect(t, "cat")
	event := next(t, c.subscribed, "subscribed event")
	equal(t, "#cat", event.Channel)
	equal(t, true, event.Recoverable)
	user(t, "POST", "cat", "publish")
	publication := next(t, c.publications, "publication")
	equal(t, "#cat", publication.Channel)
	equal(t, `"to cat"`, string(publication.Data))
}

func testCodes(t *testing.T) {
	c, _ := connect(t, "fay")
	for channel, code := range map[string]uint32{"rooms:secret": 103, "nowhere": 102} {
		s := newSubscription(t, c, channel, centrifuge.SubscriptionConfig{})
		check(t, s.Subscribe())
		equal(t, code, next(t, s.unsubscribed, "unsubscribed event").Code)
	}
	s := subscribe(t, c, "rooms:go-codes", centrifuge.SubscriptionConfig{})
	user(t, "POST", "fay", "revoke?channel=rooms:go-codes")
	equal(t, 2000, next(t, s.unsubscribed, "unsubscribed event").Code)
	check(t, s.Subscribe())
	equal(t, 103, next(t, s.unsubscribed, "unsubscribed event").Code)
	user(t, "POST", "fay", "disconnect?code=4000")
	equal(t, 4000, next(t, c.connecting, "connecting event").Code)
	next(t, c.connected, "connected event")
	user(t, "POST", "fay", "disconnect?code=4500")
	equal(t, 4500, next(t, c.disconnected, "disconnected event").Code)
}

// tokens returns tokens of the server. The first one has expired, if that is asked for.
func tokens(t *testing.T, path string, expired bool) (get func() (string, error), calls chan int) {
	calls = make(chan int, 100)
	count := 0
	return func() (string, error) {
		count++
		calls <- count
		ttl := "2"
		if expired && count == 1 {
			ttl = "-5"
		}
		return user(t, "GET", "dan", "token?ttl="+ttl+path), nil
	}, calls
}

func testTokens(t *testing.T) {
	get, calls := tokens(t, "", true)
	c := newClient(t, centrifuge.Config{
		GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) { return get() },
	})
	check(t, c.Connect())
	next(t, c.connected, "connected event")
	equal(t, "#dan", next(t, c.subscribed, "subscribed event").Channel)
	for count := 0; count < 3; {
		count = next(t, calls, "request for a token")
	}
	_, err := c.RPC(ctx, "sum", []byte("[4]"))
	check(t, err)
	equal(t, 0, len(c.connected))
	forged := newClient(t, centrifuge.Config{Token: "x.y.z"})
	check(t, forged.Connect())
	equal(t, 3500, next(t, forged.disconnected, "disconnected event").Code)
}

func testSubscriptionTokens(t *testing.T) {
	c := newClient(t, centrifuge.Config{Token: user(t, "GET", "dan", "token")})
	check(t, c.Connect())
	without := newSubscription(t, c, "rooms:token", centrifuge.SubscriptionConfig{})
	check(t, without.Subscribe())
	equal(t, 103, next(t, without.unsubscribed, "unsubscribed event").Code)
	check(t, c.RemoveSubscription(without.Subscription))
	get, calls := tokens(t, "&channel=rooms:token", false)
	s := subscribe(t, c, "rooms:token", centrifuge.SubscriptionConfig{
		GetToken: func(centrifuge.SubscriptionTokenEvent) (string, error) { return get() },
	})
	for count := 0; count < 2; {
		count = next(t, calls, "request for a token")
	}
	_, err := s.Publish(ctx, []byte(`"still there"`))
	check(t, err)
	s.receive(t, `"still there"`)
	equal(t, 0, len(s.subscribed))
}

func testRecovery(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-recovery", centrifuge.SubscriptionConfig{})
	publish(t, "go-recovery", 0, nil)
	s.receive(t, "0")
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	for n := 1; n <= 20; n++ {
		publish(t, "go-recovery", n, nil)
	}
	reconnect(t, s)
	publish(t, "go-recovery", 21, nil)
	for n := 1; n <= 21; n++ {
		s.receive(t, strconv.Itoa(n))
	}
}

func testRestart(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-restart", centrifuge.SubscriptionConfig{})
	publish(t, "go-restart", "before", nil)
	s.receive(t, `"before"`)
	control(t, "restart")
	event := next(t, s.subscribed, "subscribed event")
	equal(t, []bool{true, false}, []bool{event.WasRecovering, event.Recovered})
	publish(t, "go-restart", "after", nil)
	equal(t, 1, s.receive(t, `"after"`).Offset)
}

// reconnect mends the connection, and checks that the subscription has recovered.
func reconnect(t *testing.T, s *subscription) {
	t.Helper()
	control(t, "mend")
	event := next(t, s.subscribed, "subscribed event")
	equal(t, []bool{true, true}, []bool{event.WasRecovering, event.Recovered})
}

func testFinish(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-finish", centrifuge.SubscriptionConfig{})
	rooms := os.Getenv("SERVER") + "/rooms/"
	request(t, "DELETE", rooms+"go-finish?data=end", nil)
	s.receive(t, `"end"`)
	equal(t, 2400, next(t, s.unsubscribed, "unsubscribed event").Code)
	s = subscribe(t, c, "rooms:go-fail", centrifuge.SubscriptionConfig{})
	publish(t, "go-fail", 0, nil)
	s.receive(t, "0")
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	publish(t, "go-fail", 1, nil)
	request(t, "DELETE", rooms+"go-fail?data=2&error=overloaded", nil)
	reconnect(t, s)
	s.receive(t, "1")
	s.receive(t, `"2"`)
	event := next(t, s.unsubscribed, "unsubscribed event")
	equal(t, 2401, event.Code)
	equal(t, "overloaded", event.Reason)
}

func testState(t *testing.T) {
	address := os.Getenv("SERVER") + "/states/go"
	put := func(value string) { request(t, "PUT", address, value) }
	var loaded []string
	put("a")
	c, _ := connect(t, "")
	s := subscribe(t, c, "states:go", centrifuge.SubscriptionConfig{
		GetState: func(centrifuge.SubscriptionGetStateEvent) (centrifuge.StreamPosition, error) {
			var snapshot struct {
				State  string
				Offset uint64
				Epoch  string
			}
			err := json.Unmarshal([]byte(request(t, "GET", address, nil)), &snapshot)
			loaded = append(loaded, snapshot.State)
			return centrifuge.StreamPosition{
				Offset: snapshot.Offset, Epoch: snapshot.Epoch,
			}, err
		},
		MinResubscribeDelay: 20 * time.Millisecond,
	})
	put("b")
	s.receive(t, `"b"`)
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	put("c")
	reconnect(t, s)
	s.receive(t, `"c"`)
	equal(t, []string{"a"}, loaded)
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	for _, value := range []string{"d", "e", "f", "g", "h"} {
		put(value)
	}
	reconnect(t, s)
	equal(t, []string{"a", "h"}, loaded)
	put("i")
	s.receive(t, `"i"`)
}

func testDelta(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-delta", centrifuge.SubscriptionConfig{
		Delta: centrifuge.DeltaTypeFossil,
	})
	state := map[string]string{}
	for n := range 1000 {
		state[fmt.Sprint("item ", n)] = strconv.FormatUint(rand.Uint64(), 16)
	}
	whole, err := json.Marshal(state)
	check(t, err)
	before := sentBytes(t)
	receive := func() {
		t.Helper()
		var received map[string]string
		event := next(t, s.publications, "publication")
		check(t, json.Unmarshal(event.Data, &received))
		equal(t, state, received)
	}
	for n := range 10 {
		state[fmt.Sprint("item ", n*100)] = fmt.Sprint("é ✓ ", n)
		publish(t, "go-delta", state, nil)
		receive()
	}
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	for n := range 5 {
		state[fmt.Sprint("item ", n*200)] = fmt.Sprint("recovered ", n)
		publish(t, "go-delta", state, nil)
	}
	reconnect(t, s)
	for range 4 {
		next(t, s.publications, "publication")
	}
	receive()
	state["item 500"] = "last"
	publish(t, "go-delta", state, nil)
	receive()
	// The first one after each subscribe is whole.
	if sent := sentBytes(t) - before; sent > 3*len(whole) {
		t.Fatalf("the server has sent %d bytes for states of %d bytes", sent, len(whole))
	}
}

func testFilter(t *testing.T) {
	c, _ := connect(t, "")
	s := subscribe(t, c, "rooms:go-filter", centrifuge.SubscriptionConfig{
		TagsFilter: centrifuge.FilterOr(
			centrifuge.FilterEq("region", "north"), centrifuge.FilterGte("price", "9.5"),
		),
	})
	all := []map[string]string{
		{"region": "north"},
		{"region": "south"},
		{"price": "10"},
		{"price": "9"},
		{},
		{"region": "north"},
	}
	for n, tags := range all[:3] {
		publish(t, "go-filter", n, tags)
	}
	s.receive(t, "0")
	s.receive(t, "2")
	control(t, "cut")
	next(t, c.connecting, "connecting event")
	for n, tags := range all[3:] {
		publish(t, "go-filter", n+3, tags)
	}
	reconnect(t, s)
	s.receive(t, "5")
	equal(t, 0, len(s.publications))
}
