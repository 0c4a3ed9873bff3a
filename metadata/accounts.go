package metadata

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"time"

	"berth/oci"
)

// Account lets machines of an AWS account sign in, with what they may do. A row
// without a role is for the whole account, its instances included, and lets only
// pull; one with a role is for the IAM roles whose names match.
type Account struct {
	Account      string   // the account's id, 12 digits
	Role         string   // glob on the name of an IAM role; "" is the whole account
	Repositories string   // glob on repository names; "*" is all
	Actions      []string // pull, push, delete
	CreatedAt    time.Time
	CreatedBy    string
}

const accountColumns = `account, role, repositories, actions, created_at, created_by FROM accounts`

var accountRE = regexp.MustCompile(`^[0-9]{12}$`)

// IsAccount reports whether a text is the id of an AWS account: 12 digits.
func IsAccount(s string) bool { return accountRE.MatchString(s) }

func scanAccount(rows *sql.Rows) (Account, error) {
	var a Account
	var actions string
	var created int64
	err := rows.Scan(&a.Account, &a.Role, &a.Repositories, &actions, &created, &a.CreatedBy)
	a.Actions, a.CreatedAt = strings.Split(actions, ","), fromMicros(created)
	return a, err
}

// PutAccount lets an account or roles of it in, or changes what they may do; who
// first did so, and when, stays on record. It gives the row as it is now.
func (tx *Tx) PutAccount(ctx context.Context, a Account) (Account, error) {
	var created int64
	err := tx.row(ctx, `
		INSERT INTO accounts (account, role, repositories, actions, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (account, role) DO UPDATE SET repositories = excluded.repositories, actions = excluded.actions
		RETURNING created_at, created_by`,
		a.Account, a.Role, a.Repositories, strings.Join(a.Actions, ","), micros(tx.now), a.CreatedBy).Scan(&created, &a.CreatedBy)
	a.CreatedAt = fromMicros(created)
	return a, err
}

// Accounts lists accounts behind an account and role, in byte order.
func (tx *Tx) Accounts(ctx context.Context, account, role string, limit int) ([]Account, error) {
	return list(ctx, tx, scanAccount, `
		SELECT `+accountColumns+` WHERE (account, role) > ($1, $2) ORDER BY account, role LIMIT $3`, account, role, limit)
}

// maxAccountRoles bounds what one sign-in reads.
const maxAccountRoles = 1000

// AccountRoles gives the rows of one account: at most one for the whole account,
// and those of its roles. An account that nobody let in has none.
func (tx *Tx) AccountRoles(ctx context.Context, account string) ([]Account, error) {
	return list(ctx, tx, scanAccount, `
		SELECT `+accountColumns+` WHERE account = $1 ORDER BY role LIMIT $2`, account, maxAccountRoles)
}

// DeleteAccount shuts out an account or roles of it. It returns NOT_FOUND.
func (tx *Tx) DeleteAccount(ctx context.Context, account, role string) error {
	n, err := tx.exec(ctx, `DELETE FROM accounts WHERE account = $1 AND role = $2`, account, role)
	if err == nil && n == 0 {
		what := "the AWS account " + account
		if role != "" {
			what = "the role " + role + " of " + what
		}
		return oci.Errorf(oci.CodeNotFound, "%s is not among those that may sign in", what)
	}
	return err
}
