package serve

import (
	"context"
	"errors"
	"io"

	"berth/auth"
	"berth/cmd/berth/open"
	"berth/server"
)

// newIdentities makes what knows who somebody is, and what they may do.
func newIdentities(ctx context.Context, a *app) (part, error) {
	c, db := a.config, a.db
	openid, err := open.NewOIDC(c, db, a.log)
	if err != nil {
		return part{}, err
	}
	list, err := open.Authenticators(ctx, c, db, a.hasher, openid, a.log, open.NewProviderMetrics(a.metrics))
	if err != nil {
		return part{}, err
	}
	a.chain = auth.NewChain(nil, list...)
	a.policy = auth.NewPolicy(db, auth.PolicyOptions{PublicRead: c.PublicRead, Clock: db.Now, Teams: open.TeamService(list), ExternalMaxAge: c.ExternalMaxAge})
	refresher := auth.NewRefresher(db, db.Now)
	refresher.External(c.ExternalMaxAge, auth.NewDirectory(db, a.log, db.Now), open.Recheckers(list)...)
	return part{
		serve: func(o *server.Options) {
			o.Auth, o.Policy, o.Refresher = a.chain, a.policy, refresher
			if provider, ok := openid.SignIn(); ok {
				o.Provider = (*server.Provider)(&provider)
				o.Browsers, o.Sessions = openid, auth.NewWebSessions(db, c.OIDC.SessionTTL, db.Now)
				o.Sessions.External(c.ExternalMaxAge)
			}
		},
		close: func() (err error) {
			for _, l := range list {
				if closer, ok := l.(io.Closer); ok {
					err = errors.Join(err, closer.Close())
				}
			}
			return err
		},
	}, nil
}
