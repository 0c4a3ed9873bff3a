package serve

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"berth/auth"
	"berth/cmd/berth/settings"
	"berth/jobs"
	"berth/metadata"
	"berth/people"
	"berth/server"
)

// newPeople makes what changes users, teams and rights.
func newPeople(_ context.Context, a *app) (part, error) {
	a.people = people.New(people.Options{
		DB: a.db, Hasher: a.hasher, Passwords: a.chain, Keys: a.tokens.Keys(), Service: serviceName(a.config.URL), TrustedIssuers: a.config.OIDC.TrustedIssuers,
	})
	return part{
		serve: func(o *server.Options) { o.Services = a.people.Service },
		loops: []jobs.Loop{{Name: "prune-token-secrets", Every: time.Hour, Run: a.people.PruneTokenSecrets}},
	}, nil
}

// adminName is the user that the first start makes.
const adminName = "admin"

// firstStart makes the first user when there is none, and gives its password when it was made up
// here. When there are users, the setting of that password is ignored, and the log says so.
func firstStart(ctx context.Context, db *metadata.DB, hasher *auth.Hasher, c *settings.Config, log *slog.Logger) (string, error) {
	p := people.New(people.Options{DB: db, Hasher: hasher})
	has, err := p.HasUsers(ctx)
	if err == nil && has && c.AdminPassword != "" {
		log.Info("the setting admin_password is ignored, for there are users already: it is the password of the first one only. " +
			"If the password of " + adminName + " is lost, set it with 'berth user password " + adminName + " --local'")
	}
	if err != nil || has {
		return "", err
	}
	password, made := c.AdminPassword, ""
	if password == "" {
		password = rand.Text()
		made = password
	}
	created, err := p.CreateFirstAdmin(ctx, auth.Operator("berth"), adminName, password)
	if err != nil || !created { // another replica was first
		return "", err
	}
	return made, nil
}
