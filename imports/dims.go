package imports

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

// Dims takes the tokens of d.ims.io over from an export of its table. Each becomes a personal token
// that carries no more than the actions; its user is made when there is none.
func Dims(ctx context.Context, o Options, name string, in io.Reader, actions auth.Actions) (Report, error) {
	tokens, problems, err := readDims(name, in)
	if err != nil {
		return Report{}, err
	}
	who, err := newIdentities(ctx, o)
	if err != nil {
		return Report{}, err
	}
	tokens, strangers, err := sortRecords(ctx, who, tokens, func(t dimsToken) string { return fmt.Sprintf("record %d", t.record) },
		func(t *dimsToken) *string { return &t.user }, func(dimsToken) bool { return true })
	if err != nil {
		return Report{}, err
	}
	left, err := o.left(name, append(problems, strangers...))
	if err != nil {
		return Report{}, err
	}
	report, err := inBatches(ctx, o, tokens, func(ctx context.Context, b *people.Batch, t dimsToken, r *Report) error {
		return importDims(ctx, b, t, who, actions, r)
	})
	report.Kept = append(left, report.Kept...)
	return report, err
}

// dimsToken is a token of d.ims.io: the hash of its pair, and whose it is.
type dimsToken struct {
	record int
	hash   string
	user   string
	own    string // the pair's user name: the User of tokens that were made with this one
}

// dimsItem is an item of the table, in the forms that tools give it.
type dimsItem struct {
	Token dimsValue
	User  dimsValue
	Item  *dimsItem  // a line of an export to S3
	Items []dimsItem // the answer of a scan
}

// dimsValue is "text", or {"S":"text"} as DynamoDB writes it.
type dimsValue string

// UnmarshalJSON reads either form.
func (v *dimsValue) UnmarshalJSON(raw []byte) error {
	var typed struct{ S *string }
	if json.Unmarshal(raw, &typed) == nil && typed.S != nil {
		*v = dimsValue(*typed.S)
		return nil
	}
	return json.Unmarshal(raw, (*string)(v))
}

// maxDimsToken bounds a token, in bytes; those of d.ims.io have 56.
const maxDimsToken = 1024

// readDims reads an export. The problems name every record that is not a token, and never
// the token. Tokens that were made with another token belong to the user of that one.
func readDims(file string, in io.Reader) (tokens []dimsToken, problems []error, err error) {
	buffered := bufio.NewReader(in)
	items := jsonItems
	if first, err := firstByte(buffered); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	} else if first != '{' && first != '[' {
		items = csvItems
	}
	n := 0
	err = items(buffered, func(item dimsItem) error {
		if n++; n > maxRecords {
			return fmt.Errorf("there are more than %d tokens: divide the file", maxRecords)
		}
		raw, err := base64.StdEncoding.DecodeString(string(item.Token))
		user, password, ok := strings.Cut(string(raw), ":")
		switch {
		case item.Token == "" || item.User == "":
			problems = append(problems, fmt.Errorf("record %d: it has no Token or no User", n))
			return nil
		case err != nil || !ok || user == "" || password == "" || len(item.Token) > maxDimsToken:
			problems = append(problems, fmt.Errorf("record %d: its Token is not base64 of user:password", n))
			return nil
		}
		tokens = append(tokens, dimsToken{record: n, hash: auth.PairHash(user, password), user: string(item.User), own: user})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s, record %d: %w", file, n+1, err)
	}
	maker := map[string]string{}
	for _, t := range tokens {
		maker[t.own] = t.user
	}
	for i := range tokens {
		t := &tokens[i]
		// The old system wrote down the random user name when a token made a token.
		for steps := 0; steps < len(tokens); steps++ {
			of, ok := maker[t.user]
			if !ok {
				break
			}
			t.user = of
		}
	}
	return tokens, problems, nil
}

// firstByte peeks at the first byte that is not a space.
func firstByte(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if !slices.Contains([]byte(" \t\r\n"), b) {
			return b, r.UnreadByte()
		}
	}
}

// jsonItems reads JSON values, one after the other.
func jsonItems(r *bufio.Reader, found func(dimsItem) error) error {
	var walk func(item dimsItem) error
	walk = func(item dimsItem) error {
		switch {
		case item.Item != nil:
			return walk(*item.Item)
		case item.Items != nil:
			for _, i := range item.Items {
				if err := walk(i); err != nil {
					return err
				}
			}
			return nil
		}
		return found(item)
	}
	for d := json.NewDecoder(r); ; {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		item := dimsItem{}
		target := any(&item)
		if raw[0] == '[' {
			item.Items = []dimsItem{}
			target = &item.Items
		}
		if err := json.Unmarshal(raw, target); err != nil {
			return errors.New("it is not an item of the tokens table") // the text of the error may hold the token
		}
		if err := walk(item); err != nil {
			return err
		}
	}
}

// csvItems reads CSV with a header that has Token and User, also as the console of AWS
// writes it: "Token (S)".
func csvItems(r *bufio.Reader, found func(dimsItem) error) error {
	lines := csv.NewReader(r)
	header, err := lines.Read()
	if err != nil {
		return err
	}
	column := func(name string) int {
		return slices.IndexFunc(header, func(s string) bool {
			s = strings.TrimPrefix(strings.TrimSpace(s), "\uFEFF")
			return strings.EqualFold(s, name) || strings.EqualFold(s, name+" (S)")
		})
	}
	token, user := column("Token"), column("User")
	if token < 0 || user < 0 {
		return errors.New("its first line has no columns Token and User")
	}
	for {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := found(dimsItem{Token: dimsValue(fields[token]), User: dimsValue(fields[user])}); err != nil {
			return err
		}
	}
}

// importDims makes a token, and its user when there is none.
func importDims(ctx context.Context, b *people.Batch, t dimsToken, who *identities, actions auth.Actions, r *Report) error {
	existing, err := b.TokenByHash(ctx, t.hash)
	switch {
	case err == nil && existing.User == t.user:
		r.Unchanged++
		return nil
	case err == nil:
		r.Kept = append(r.Kept, fmt.Sprintf("record %d: the token is %s's here, and not %s's; it stays so", t.record, existing.User+existing.Team, t.user))
		return nil
	case !errors.Is(err, oci.ErrNotFound):
		return err
	}
	if _, err := who.whose(ctx, b, t.user); errors.Is(err, oci.ErrNotFound) {
		if _, err := b.CreateUser(ctx, importer, metadata.User{Name: t.user, Role: metadata.RoleUser, Source: who.source}, "dims"); err != nil {
			return err
		}
		r.Users++
	} else if err != nil {
		return err
	}
	_, err = b.ImportPair(ctx, importer, metadata.Token{
		Name: "dims-" + t.hash[:16], User: t.user, Repositories: "*", Actions: actions.Names(),
	}, t.hash, "dims")
	if err != nil {
		return err
	}
	r.Tokens++
	return nil
}
