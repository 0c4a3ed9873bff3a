package server

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"berth/metadata"
)

// TestForwarded: one parser for what proxies say, in each form that they say it in. What cannot be
// read is nobody's address, and never the proxy's.
func TestForwarded(t *testing.T) {
	nearest := AnyProxy()
	chain, err := ParseProxies("192.0.2.0/24, 2001:db8:ffff::/48,198.51.100.7")
	if err != nil {
		t.Fatal(err)
	}
	const peer = "192.0.2.1"
	for _, tt := range []struct {
		what    string
		proxies Proxies
		headers []string
		want    string // the client; "" is the peer
		url     string // "" is http://r.example
	}{
		{"nobody is believed", Proxies{}, []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example", "Forwarded", "for=203.0.113.9;proto=https"}, "", ""},
		{"no header", nearest, nil, "", ""},

		{"plain", nearest, []string{"X-Forwarded-For", "203.0.113.9"}, "203.0.113.9", ""},
		{"port", nearest, []string{"X-Forwarded-For", "203.0.113.9:51234"}, "203.0.113.9", ""},
		{"IPv6", nearest, []string{"X-Forwarded-For", "2001:db8::1"}, "2001:db8::1", ""},
		{"brackets", nearest, []string{"X-Forwarded-For", "[2001:db8::1]"}, "2001:db8::1", ""},
		{"brackets and port", nearest, []string{"X-Forwarded-For", "[2001:db8::1]:443"}, "2001:db8::1", ""},
		{"IPv4 in IPv6", nearest, []string{"X-Forwarded-For", "[::ffff:203.0.113.9]:443"}, "203.0.113.9", ""},
		{"zone", nearest, []string{"X-Forwarded-For", "[fe80::1%eth0]:443"}, "fe80::1", ""},
		{"the nearest is the last", nearest, []string{"X-Forwarded-For", "10.0.0.1, 203.0.113.9:1 ,198.51.100.2:2 "}, "198.51.100.2", ""},
		{"lines are one list", nearest, []string{"X-Forwarded-For", "10.0.0.1", "X-Forwarded-For", "203.0.113.9"}, "203.0.113.9", ""},

		{"empty", nearest, []string{"X-Forwarded-For", ""}, unknownAddress, ""},
		{"empty entry", nearest, []string{"X-Forwarded-For", "203.0.113.9,"}, unknownAddress, ""},
		{"unknown", nearest, []string{"X-Forwarded-For", "unknown"}, unknownAddress, ""},
		{"a name", nearest, []string{"X-Forwarded-For", "client.example"}, unknownAddress, ""},
		{"a port too large", nearest, []string{"X-Forwarded-For", "203.0.113.9:65536"}, unknownAddress, ""},
		{"no port", nearest, []string{"X-Forwarded-For", "203.0.113.9:"}, unknownAddress, ""},
		{"not a port", nearest, []string{"X-Forwarded-For", "203.0.113.9:http"}, unknownAddress, ""},
		{"open bracket", nearest, []string{"X-Forwarded-For", "[2001:db8::1"}, unknownAddress, ""},
		{"behind the bracket", nearest, []string{"X-Forwarded-For", "[2001:db8::1]x"}, unknownAddress, ""},
		{"IPv4 in brackets", nearest, []string{"X-Forwarded-For", "[203.0.113.9]:1"}, unknownAddress, ""},
		{"octal", nearest, []string{"X-Forwarded-For", "0203.0.113.9"}, unknownAddress, ""},

		{"a chain", chain, []string{"X-Forwarded-For", "10.9.9.9, 203.0.113.9:1, 198.51.100.7:2, 192.0.2.44"}, "203.0.113.9", ""},
		{"a chain of IPv6", chain, []string{"X-Forwarded-For", "203.0.113.9, [2001:db8:ffff::5]:80"}, "203.0.113.9", ""},
		{"a break in the chain", chain, []string{"X-Forwarded-For", "203.0.113.9, ?, 192.0.2.44"}, unknownAddress, ""},
		{"proxies only", chain, []string{"X-Forwarded-For", "198.51.100.7, 192.0.2.44"}, "198.51.100.7", ""},

		{"RFC 7239", nearest, []string{"Forwarded", `for=192.0.2.43, For="[2001:db8:cafe::17]:4711";PROTO=https;by=203.0.113.43`}, "2001:db8:cafe::17", "https://r.example"},
		{"RFC 7239, lines", nearest, []string{"Forwarded", "for=192.0.2.43", "Forwarded", `for="203.0.113.9:_gazonk"`}, "203.0.113.9", ""},
		{"RFC 7239, not quoted", nearest, []string{"Forwarded", `for=203.0.113.9:80`}, "203.0.113.9", ""},
		{"RFC 7239, hidden", nearest, []string{"Forwarded", "for=_SEVKISEK"}, unknownAddress, ""},
		{"RFC 7239, unknown", nearest, []string{"Forwarded", "for=unknown;proto=https"}, unknownAddress, "https://r.example"},
		{"RFC 7239, no for", nearest, []string{"Forwarded", "proto=https;host=a.example"}, unknownAddress, "https://a.example"},
		{"RFC 7239, a comma in quotes", nearest, []string{"Forwarded", `for=203.0.113.9;by="a,b;c\"d"`}, "203.0.113.9", ""},
		{"RFC 7239, a quote of the client", nearest, []string{"Forwarded", `for="x, for=203.0.113.9`}, unknownAddress, ""},
		{"RFC 7239, a quote that the proxy closes", nearest, []string{"Forwarded", `for="x, for="[2001:db8::1]"`}, unknownAddress, ""},
		{"RFC 7239, twice", nearest, []string{"Forwarded", "for=203.0.113.9;for=203.0.113.10"}, unknownAddress, ""},
		{"RFC 7239, no value", nearest, []string{"Forwarded", "for=203.0.113.9, for"}, unknownAddress, ""},
		{"RFC 7239, a chain", chain, []string{"Forwarded", `for=10.1.1.1, for=203.0.113.9, for="[2001:db8:ffff::5]"`}, "203.0.113.9", ""},

		{"both agree", nearest, []string{"X-Forwarded-For", "203.0.113.9:1", "Forwarded", "for=203.0.113.9"}, "203.0.113.9", ""},
		{"one of both is the client's own", nearest, []string{"X-Forwarded-For", "203.0.113.9", "Forwarded", "for=10.0.0.1"}, unknownAddress, ""},

		{"https", nearest, []string{"X-Forwarded-Proto", "https"}, "", "https://r.example"},
		{"https, then http between proxies", nearest, []string{"X-Forwarded-Proto", "https,http"}, "", "https://r.example"},
		{"lines", nearest, []string{"X-Forwarded-Proto", "HTTPS ", "X-Forwarded-Proto", "http"}, "", "https://r.example"},
		{"http, then https", nearest, []string{"X-Forwarded-Proto", "http, https"}, "", "https://r.example"},
		{"the two headers", nearest, []string{"X-Forwarded-Proto", "http", "Forwarded", "for=203.0.113.9;proto=https"}, "203.0.113.9", "https://r.example"},
		{"no protocol", nearest, []string{"X-Forwarded-Proto", "gopher"}, "", ""},
		{"the port tells", nearest, []string{"X-Forwarded-Port", "443"}, "", "https://r.example"},
		{"a port", nearest, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Port", "8443"}, "", "https://r.example:8443"},
		{"a list of ports", nearest, []string{"X-Forwarded-Proto", "https", "X-Forwarded-Port", "8443, 80"}, "", "https://r.example:8443"},
		{"the protocol's port", nearest, []string{"X-Forwarded-Proto", "http", "X-Forwarded-Port", "80"}, "", ""},
		{"a port that is none", nearest, []string{"X-Forwarded-Port", "0x1f"}, "", ""},
		{"a host", nearest, []string{"X-Forwarded-Host", "a.example, b.internal:5000"}, "", "http://a.example"},
		{"a host with a port", nearest, []string{"X-Forwarded-Host", "a.example:5443", "X-Forwarded-Port", "443", "X-Forwarded-Proto", "https"}, "", "https://a.example:5443"},
		{"an IPv6 host", nearest, []string{"X-Forwarded-Host", "[2001:db8::1]", "X-Forwarded-Port", "8443", "X-Forwarded-Proto", "https"}, "", "https://[2001:db8::1]:8443"},
		{"no host", nearest, []string{"X-Forwarded-Host", `x",realm="evil`}, "", ""},
	} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.Host, r.RemoteAddr = "r.example", peer+":1234"
		for i := 0; i < len(tt.headers); i += 2 {
			r.Header.Add(tt.headers[i], tt.headers[i+1])
		}
		if tt.want == "" {
			tt.want = peer
		}
		if tt.url == "" {
			tt.url = "http://r.example"
		}
		if o := originOf(r, tt.proxies); o.remote != tt.want || o.scheme+"://"+o.host != tt.url {
			t.Errorf("%s: %+v, want %s at %s", tt.what, o, tt.want, tt.url)
		}
	}

	// Who is no proxy says nothing of others; and a list does not take https away from a connection that has it.
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.RemoteAddr, r.TLS = "203.0.113.200:1", &tls.ConnectionState{}
	r.Header.Set("X-Forwarded-For", "10.0.0.1")
	r.Header.Set("X-Forwarded-Proto", "gopher")
	if o := originOf(r, chain); o.remote != "203.0.113.200" || o.scheme != "https" {
		t.Errorf("a stranger: %+v", o)
	}
	if o := originOf(r, nearest); o.scheme != "https" {
		t.Errorf("a protocol that is none: %+v", o)
	}
	for _, bad := range []string{"", "nearest", "10.0.0.0/33", "10.0.0.0/8,", "::ffff:10.0.0.0/104"} {
		if p, err := ParseProxies(bad); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

// TestForwardedNetwork: a token that is bound to the proxy's own network is not good for those behind the
// proxy, in whatever form their address comes.
func TestForwardedNetwork(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.Proxies = AnyProxy() })
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "inside", Team: "team", Actions: []string{"pull"}, CIDRs: []string{"127.0.0.0/8", "::1/128"}})
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+w.accounts["inside"]))
	ask := func(forwarded string) int {
		r, err := http.NewRequest("GET", w.http.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", header)
		r.Header.Set("X-Forwarded-For", forwarded)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, outside := range []string{"203.0.113.9", "203.0.113.9:51234", "[2001:db8::1]:443", "_hidden", "", "127.0.0.1:99999"} {
		if status := ask(outside); status != http.StatusUnauthorized {
			t.Errorf("from %q: %d", outside, status)
		}
	}
	for _, inside := range []string{"127.0.0.1", "127.0.0.1:51234", "[::1]:443"} {
		if status := ask(inside); status != http.StatusOK {
			t.Errorf("from %q: %d", inside, status)
		}
	}
	if !strings.Contains(w.log.String(), "forwarded_for=_hidden") && !strings.Contains(w.log.String(), `forwarded_for="_hidden`) {
		t.Error("the log does not show what the proxy said")
	}
}

// FuzzForwarded: whatever comes, the client is an address, the peer or unknown, and the URL is plain.
func FuzzForwarded(f *testing.F) {
	f.Add("203.0.113.9:51234", `for="[2001:db8::1]:443";proto=https`, "https,http", "a.example", "8443")
	f.Add("[::1", `for="a, for=b`, "", `x"`, "70000")
	chain, err := ParseProxies("10.0.0.0/8,fe80::/10")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, xff, forwarded, proto, host, port string) {
		for _, p := range []Proxies{{}, AnyProxy(), chain} {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr, r.Host = "10.1.1.1:1", "r.example"
			r.Header = http.Header{"X-Forwarded-For": {xff}, "Forwarded": {forwarded}, "X-Forwarded-Proto": {proto}, "X-Forwarded-Host": {host}, "X-Forwarded-Port": {port}}
			o := originOf(r, p)
			if _, err := netip.ParseAddr(o.remote); err != nil && o.remote != unknownAddress {
				t.Errorf("client %q", o.remote)
			}
			if o.scheme != "http" && o.scheme != "https" || !plainHost(o.host) {
				t.Errorf("%q://%q", o.scheme, o.host)
			}
		}
	})
}
