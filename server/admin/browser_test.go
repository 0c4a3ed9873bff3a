package admin_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/opencontainers/go-digest"

	"berth/auth"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/testenv"
)

// tab opens a browser's tab, which ends with the test.
func tab(t *testing.T) context.Context {
	t.Helper()
	chromium := testenv.Tool(t, "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	return ctx
}

// TestBrowserSession: an administrator who is signed in with a browser uses the page of the API, and what
// somebody stored, opened in the same browser, neither runs nor acts for the administrator; nor does
// a script of this origin that runs all the same, without the token that the page holds.
func TestBrowserSession(t *testing.T) {
	w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)}))
	payload := []byte(`{"annotations":{"x":"<script>fetch('/api/v1/users',{method:'POST',headers:{'Content-Type':'application/json'},body:'{}'});document.title='owned'</script>"}}`)
	d := digest.FromBytes(payload)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		id, _, err := tx.EnsureRepository(ctx, "team/app", metadata.Public, "root")
		if err != nil {
			return err
		}
		_, err = tx.PutManifest(ctx, id, metadata.Manifest{Digest: d, MediaType: "text/html", Payload: payload, Size: int64(len(payload)), CreatedBy: "root"}, nil, nil, false)
		return err
	})
	var root metadata.User
	w.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
		root, err = tx.User(ctx, "root")
		return err
	})
	secret, _, err := auth.NewWebSessions(w.db, time.Hour, nil).Begin(t.Context(), auth.Principal{Kind: auth.KindUser, Name: "root", ID: root.ID})
	if err != nil {
		t.Fatal(err)
	}
	ctx := tab(t)
	page := w.url + "/api/"
	if err := chromedp.Do(ctx, chromedp.Navigate(page), chromedp.WaitVisible(".opblock")); err != nil {
		t.Fatal(err)
	}
	if got := evaluate[string](t, ctx, `document.querySelector('meta[name="csrf-token"]').content`); got != "" {
		t.Errorf("without a session the page holds %q", got)
	}
	if _, err := chromedp.Call(ctx, network.SetCookie, network.SetCookieParams{Name: "berth-session", Value: secret, URL: w.url, SameSite: network.CookieSameSiteLax}); err != nil {
		t.Fatal(err)
	}

	// What is stored becomes a file, and the tab stays where it is.
	err = chromedp.Do(ctx, chromedp.Navigate(w.url+"/v2/team/app/manifests/"+d.String()))
	if err == nil || !strings.Contains(err.Error(), "ERR_ABORTED") {
		t.Errorf("opening what is stored: %v", err)
	}
	if got := evaluate[string](t, ctx, `document.title + ' ' + location.pathname`); got != "Berth API /api/" {
		t.Errorf("the tab shows %q", got)
	}

	// The page's own button works: somebody signed in makes a team.
	open := page + "#/teams/createTeam"
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank"), chromedp.Navigate(open), chromedp.WaitVisible("#operations-teams-createTeam .try-out__btn")); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Click("#operations-teams-createTeam .try-out__btn"), chromedp.WaitVisible("#operations-teams-createTeam textarea")); err != nil {
		t.Fatal(err)
	}
	evaluate[bool](t, ctx, `(() => {
		const box = document.querySelector('#operations-teams-createTeam textarea');
		Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(box, '{"name":"pagemade"}');
		return box.dispatchEvent(new Event('input', { bubbles: true })) && box.dispatchEvent(new Event('change', { bubbles: true }));
	})()`)
	if err := chromedp.Do(ctx, chromedp.Click("#operations-teams-createTeam .execute"), chromedp.WaitVisible("#operations-teams-createTeam .live-responses-table")); err != nil {
		t.Fatal(err)
	}
	if got := evaluate[string](t, ctx, `document.querySelector('#operations-teams-createTeam .live-responses-table tbody .response-col_status').textContent`); !strings.HasPrefix(got, "201") {
		t.Errorf("the page's request got %q", got)
	}
	w.ok("GET", "/api/v1/teams/pagemade", nil)

	// A script of the same origin does not come by the token, and without it changes nothing.
	probe := func(script string) string {
		t.Helper()
		v, err := chromedp.Run(ctx, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return v
	}
	if got := probe(`fetch('/api/v1/teams', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{"name":"scriptmade"}'}).then(r => r.text())`); !strings.Contains(got, "page-token") {
		t.Errorf("a script without the token got %s", got)
	}
	if got := probe(`fetch('/api/').then(r => r.text()).then(t => new DOMParser().parseFromString(t, 'text/html').querySelector('meta[name="csrf-token"]').content)`); got != "" {
		t.Errorf("a script reads the token %q", got)
	}
	if got := w.do("root:"+rootPassword, "GET", "/api/v1/teams/scriptmade", nil); got.status != 404 {
		t.Errorf("the script made a team: %d", got.status)
	}
}

// TestBrowser opens the page of the API in a browser: it shows the operations of
// both documents, has nothing to complain about, our policy of content included, and
// asks nobody else for anything.
func TestBrowser(t *testing.T) {
	w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)}))
	ctx := tab(t)

	var (
		mu         sync.Mutex
		complaints []string
		requests   int
	)
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		complaints = append(complaints, fmt.Sprintf(format, args...))
	}
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complain("exception: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
				complain("console.%s: %s", e.Type, e.Args[0].Value)
			}
		case *cdplog.EventEntryAdded:
			if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
				complain("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			mu.Lock()
			requests++
			mu.Unlock()
			if !strings.HasPrefix(e.Request.URL, w.url+"/") && !strings.HasPrefix(e.Request.URL, "data:") {
				complain("a request to %s", e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []struct {
		query, title string
		operations   int
		path         string
	}{
		{"", "Berth management API", 45, "/accounts/{account}"},
		{"?urls.primaryName=" + url.QueryEscape("d.ims.io API"), "d.ims.io API", 13, "/repository/{owner}/{name}/image/{tag}"},
	} {
		if err := chromedp.Do(ctx, chromedp.Navigate(w.url+"/api/"+page.query), chromedp.WaitVisible(".opblock")); err != nil {
			t.Fatalf("%s: %v (%v)", page.title, err, complaints)
		}
		title := evaluate[string](t, ctx, `document.querySelector('.info .title').textContent`)
		operations := evaluate[int](t, ctx, `document.querySelectorAll('.opblock').length`)
		text := evaluate[string](t, ctx, `document.querySelector('#swagger-ui').textContent.replaceAll('\u200b', '')`)
		if !strings.HasPrefix(title, page.title) || operations < page.operations || !strings.Contains(text, page.path) {
			t.Errorf("%q has %d operations, want %q with at least %d", title, operations, page.title, page.operations)
		}
	}
	// One operation opens, so that scripts work after loading too.
	if err := chromedp.Do(ctx, chromedp.Click(".opblock-summary-control"), chromedp.WaitVisible(".opblock-body .responses-table")); err != nil {
		t.Errorf("opening an operation: %v", err)
	}
	// What the browser complains of does reach us.
	evaluate[bool](t, ctx, `console.error('probe') === undefined`)
	mu.Lock()
	defer mu.Unlock()
	if requests < 8 {
		t.Errorf("only %d requests were seen", requests)
	}
	if len(complaints) == 0 || !strings.Contains(complaints[len(complaints)-1], "probe") {
		t.Errorf("a complaint was not seen: %q", complaints)
	}
	for _, c := range complaints[:max(0, len(complaints)-1)] {
		t.Error(c)
	}
}

func evaluate[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}
