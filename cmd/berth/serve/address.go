package serve

import "net/url"

// serviceName is the audience of our own tokens: the host of the URL.
func serviceName(address string) string {
	if u, err := url.Parse(address); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return "berth"
}
