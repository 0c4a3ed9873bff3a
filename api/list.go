package api

// List is a page of a list, as every operation that lists answers it.
type List[T any] interface {
	// Page gives the items, and what to ask for the next page with; nil on the last page.
	Page() ([]T, *Next)
}

// Page implements List.
func (l AccountList) Page() ([]Account, *Next) { return l.Items, l.Next }

// Page implements List.
func (l AuditEventList) Page() ([]AuditEvent, *Next) { return l.Items, l.Next }

// Page implements List.
func (l DeletedManifestList) Page() ([]DeletedManifest, *Next) { return l.Items, l.Next }

// Page implements List.
func (l DeletedTagList) Page() ([]DeletedTag, *Next) { return l.Items, l.Next }

// Page implements List.
func (l DenialList) Page() ([]Denial, *Next) { return l.Items, l.Next }

// Page implements List.
func (l GrantList) Page() ([]Grant, *Next) { return l.Items, l.Next }

// Page implements List.
func (l GroupList) Page() ([]Group, *Next) { return l.Items, l.Next }

// Page implements List.
func (l GroupMemberList) Page() ([]GroupMember, *Next) { return l.Items, l.Next }

// Page implements List.
func (l MemberList) Page() ([]Member, *Next) { return l.Items, l.Next }

// Page implements List.
func (l QuotaList) Page() ([]Quota, *Next) { return l.Items, l.Next }

// Page implements List.
func (l RepositoryList) Page() ([]Repository, *Next) { return l.Items, l.Next }

// Page implements List.
func (l ServiceList) Page() ([]Service, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TagEventList) Page() ([]TagEvent, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TagList) Page() ([]Tag, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TeamList) Page() ([]Team, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TokenList) Page() ([]Token, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TrustIssuerList) Page() ([]TrustIssuer, *Next) { return l.Items, l.Next }

// Page implements List.
func (l TrustPolicyList) Page() ([]TrustPolicy, *Next) { return l.Items, l.Next }

// Page implements List.
func (l UserList) Page() ([]User, *Next) { return l.Items, l.Next }

// Page implements List.
func (r RetentionReport) Page() ([]RetentionDecision, *Next) { return r.Items, r.Next }

// Page implements List.
func (l HolderList) Page() ([]Holder, *Next) { return l.Items, l.Next }

// Page implements List.
func (l RepositoryUsageList) Page() ([]RepositoryUsage, *Next) { return l.Items, l.Next }
