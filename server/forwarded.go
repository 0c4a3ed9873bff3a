package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Proxies says whose word counts about who makes a request, and by which address they know this
// server. The zero value believes nobody.
type Proxies struct {
	nearest  bool
	networks []netip.Prefix
}

// AnyProxy believes whoever connects, about the one that connected to it. It is for a server
// that nobody but its proxy can reach.
func AnyProxy() Proxies { return Proxies{nearest: true} }

// ParseProxies reads networks, such as "10.0.0.0/8, 2001:db8::1". Proxies in them are believed, one
// behind the other; what others say of themselves does not count.
func ParseProxies(list string) (p Proxies, err error) {
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		network, err := netip.ParsePrefix(part)
		if address, ok := parseNode(part); err != nil && ok {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil || network.Addr().Is4In6() {
			return p, fmt.Errorf("%.60q is not a network: write it like 10.0.0.0/8 or 2001:db8::/32", part)
		}
		p.networks = append(p.networks, network.Masked())
	}
	return p, nil
}

// believes reports whether what the peer at an address says of others counts.
func (p Proxies) believes(peer netip.Addr, known bool) bool {
	if p.nearest {
		return true
	}
	for _, n := range p.networks {
		if known && n.Contains(peer) {
			return true
		}
	}
	return false
}

// unknownAddress is the address of a request whose proxy does not say it in a form that can be read. It
// is in no network.
const unknownAddress = "unknown"

// origin is where a request comes from, and by which address its client knows this server.
type origin struct {
	remote string // the client's address without a port, or unknownAddress
	scheme string // http or https
	host   string // with a port that is not the scheme's own; "" when there is none that is plain
}

// originOf reads the origin of a request: of the connection, and of what the proxies say that are
// believed. They say it in X-Forwarded-For, -Proto, -Host and -Port, or in Forwarded (RFC 7239).
//
// A proxy passes on the headers that it does not know, so a client can write one of the two itself: when
// they name different clients, the client is unknown. Without any of them the client is the peer.
func originOf(r *http.Request, proxies Proxies) origin {
	o := origin{remote: peerOf(r), scheme: "http", host: r.Host}
	if r.TLS != nil {
		o.scheme = "https"
	}
	peer, known := parseNode(o.remote)
	if proxies.believes(peer, known) {
		elements, malformed := parseForwarded(joined(r.Header, "Forwarded"))
		var schemes, hosts, nodes []string
		for _, e := range elements {
			nodes = append(nodes, e["for"]) // "" is one that does not say it
			schemes = append(schemes, e["proto"])
			hosts = append(hosts, e["host"])
		}
		nearest := func(header string, nodes []string) (string, bool) {
			if len(r.Header.Values(header)) == 0 {
				return "", false
			}
			return proxies.client(nodes), true
		}
		standard, hasStandard := nearest("Forwarded", nodes)
		if malformed {
			standard, schemes, hosts = unknownAddress, nil, nil
		}
		customary, hasCustomary := nearest("X-Forwarded-For", listOf(r.Header, "X-Forwarded-For"))
		switch {
		case hasStandard && hasCustomary && standard != customary:
			o.remote = unknownAddress
		case hasCustomary:
			o.remote = customary
		case hasStandard:
			o.remote = standard
		}
		ports := listOf(r.Header, "X-Forwarded-Port")
		o.scheme = clientScheme(o.scheme, append(schemes, listOf(r.Header, "X-Forwarded-Proto")...), ports)
		o.host = clientHost(o, append(listOf(r.Header, "X-Forwarded-Host"), hosts...), ports)
	}
	if !plainHost(o.host) {
		o.host = "" // HTTP/1.0 without Host, or an attempt to write into the header
	}
	return o
}

// client finds the client in what the proxies appended, the nearest one last. Everything before the
// entry of the first proxy that is not believed may be an invention of the client.
func (p Proxies) client(nodes []string) string {
	client := unknownAddress
	for i := len(nodes) - 1; i >= 0; i-- {
		address, ok := parseNode(nodes[i])
		if !ok {
			return unknownAddress
		}
		if client = address.String(); p.nearest || !p.believes(address, true) {
			break
		}
	}
	return client
}

// clientScheme is that of the client's own connection, to the first proxy. Any https in the list
// is one: proxies that speak http among each other add that, and a client that is sent back by
// http would show its password to all. A value that is neither changes nothing.
func clientScheme(own string, said, ports []string) string {
	found := own
	for _, s := range said {
		switch strings.ToLower(s) {
		case "https", "wss":
			return "https"
		case "http", "ws":
			found = "http"
		}
	}
	if len(said) == 0 && len(ports) > 0 && ports[0] == "443" {
		return "https"
	}
	return found
}

// clientHost is what the client typed: the first that was said, else the Host of the request. The
// port that was said belongs to a host without one.
func clientHost(o origin, said, ports []string) string {
	found := o.host
	for _, h := range said {
		if plainHost(h) {
			found = h
			break
		}
	}
	if len(ports) == 0 || found == "" || portOf(found) != "" {
		return found
	}
	port, err := strconv.ParseUint(ports[0], 10, 16)
	if err != nil || port == 0 || o.scheme == "http" && port == 80 || o.scheme == "https" && port == 443 {
		return found
	}
	return found + ":" + strconv.FormatUint(port, 10)
}

// portOf is the port that stands behind a host, or "".
func portOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		return host[i+1:]
	}
	return ""
}

// peerOf is the address of who connected, without its port.
func peerOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// parseNode reads an address as proxies write it: IPv4 or IPv6, with or without brackets and a port. IPv4 in
// IPv6 is IPv4.
func parseNode(s string) (netip.Addr, bool) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		address, rest, closed := strings.Cut(inside, "]")
		a, err := netip.ParseAddr(address)
		return a.Unmap().WithZone(""), closed && err == nil && a.Is6() && (rest == "" || isPort(rest))
	}
	if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		if !isPort(s[i:]) {
			return netip.Addr{}, false
		}
		s = s[:i]
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

// isPort reports whether a text is a colon and a port. RFC 7239 (section 6.3) also has ports that are
// hidden: an underscore and a name.
func isPort(s string) bool {
	s, ok := strings.CutPrefix(s, ":")
	if !ok || s == "" {
		return false
	}
	if name, hidden := strings.CutPrefix(s, "_"); hidden {
		return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && s[0] != '+'
}

// joined is a header that may come in several lines, as one (RFC 9110, section 5.3).
func joined(h http.Header, name string) string { return strings.Join(h.Values(name), ",") }

// listOf is the entries of a header that is a list, with nothing for a header that is not there.
func listOf(h http.Header, name string) []string {
	if len(h.Values(name)) == 0 {
		return nil
	}
	entries := strings.Split(joined(h, name), ",")
	for i := range entries {
		entries[i] = strings.TrimSpace(entries[i])
	}
	return entries
}

// parseForwarded reads the header of RFC 7239: elements of name=value pairs, with the names in lower case, the
// nearest proxy last. One that is malformed is not read at all: who wrote which part of it cannot be told.
func parseForwarded(s string) (elements []map[string]string, malformed bool) {
	element := map[string]string{}
	for s != "" {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			break
		}
		if s[0] == ';' {
			s = s[1:]
			continue
		}
		if s[0] == ',' {
			if len(element) > 0 { // an empty element counts for nothing (RFC 9110, section 5.6.1)
				elements, element = append(elements, element), map[string]string{}
			}
			s = s[1:]
			continue
		}
		name, rest, ok := strings.Cut(s, "=")
		name = strings.ToLower(name)
		value, rest, valid := forwardedValue(rest)
		if _, twice := element[name]; !ok || !valid || twice || name == "" || strings.ContainsAny(name, " \t,;\"") {
			return nil, true
		}
		element[name] = value
		s = strings.TrimLeft(rest, " \t")
		if s != "" && s[0] != ';' && s[0] != ',' {
			return nil, true
		}
	}
	if len(element) > 0 {
		elements = append(elements, element)
	}
	return elements, false
}

// forwardedValue takes a token or a quoted string from the beginning of s. An address that should be quoted is often
// not, so a token may have colons and brackets.
func forwardedValue(s string) (value, rest string, ok bool) {
	quoted, isQuoted := strings.CutPrefix(s, `"`)
	if !isQuoted {
		end := strings.IndexAny(s, " \t,;\"=\\")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], end > 0
	}
	var b strings.Builder
	for i := 0; i < len(quoted); i++ {
		switch c := quoted[i]; c {
		case '"':
			return b.String(), quoted[i+1:], true
		case '\\':
			if i++; i == len(quoted) {
				return "", "", false
			}
			b.WriteByte(quoted[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
