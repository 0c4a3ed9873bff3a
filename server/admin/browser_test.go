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

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/testenv"
)

// TestBrowser opens the page of the API in a browser: it shows the operations of
// both documents, has nothing to complain about, our policy of content included, and
// asks nobody else for anything.
func TestBrowser(t *testing.T) {
	chromium := testenv.Tool(t, "chromium")
	w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)}))
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, closeTab := chromedp.NewContext(ctx)
	defer closeTab()

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
