package auth

import "berth/metadata"

// Actor is who does something: whom the rules are asked about, and what the audit log
// tells of the request. It is a value: copy it freely.
type Actor struct {
	Principal
	// Audit is the same actor as the audit log and the history of tags show it.
	Audit metadata.Actor
}

// ActorOf is a principal in a request, of which request has the address, the id and so on.
func ActorOf(p Principal, request metadata.Actor) Actor {
	request.Name, request.Kind, request.Claims = p.String(), string(p.Kind), p.Claims
	return Actor{p, request}
}

// Operator is who acts on the machine itself, without a sign-in: an import, the start of
// the server. Nobody limits the operator; the audit log has the name.
func Operator(name string) Actor {
	return Actor{Principal{Kind: KindUser, Name: name, Admin: true}, metadata.Actor{Name: name}}
}
