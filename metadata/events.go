package metadata

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// EventKind is what an [Event] says was done. The kinds below are all there are: Record rejects
// a deed of another kind. Their texts are stored, and people filter the audit log by them
// ("action"), so a text never changes. Where the management API has an operation for the
// deed, the text is its operation id, whatever door the deed came through.
type EventKind string

// Deeds on repositories and what is in them.
const (
	RepositoryCreated EventKind = "createRepository" // a repository came to be, by a push, a mount or a request
	RepositoryChanged EventKind = "updateRepository" // who may pull was changed
	RepositoryDeleted EventKind = "deleteRepository" // a repository went with all that it held

	ManifestPushed  EventKind = "pushManifest"   // also again, when the repository had it. Refused: the tag of Reference may not move
	ManifestDeleted EventKind = "deleteManifest" // with the tags that pointed to it

	TagCreated      EventKind = "createTag" // a push made a tag. Not in the audit log: the push is
	TagMoved        EventKind = "moveTag"   // a push moved a tag from Previous to Digest
	TagDeleted      EventKind = "deleteTag" // a tag alone went; its manifest may go with it, as an event of its own
	DeletedRestored EventKind = "restore"   // deleted tags, or a manifest with its tags, are back

	BlobPushed  EventKind = "pushBlob"   // a repository has a blob whose bytes came in. Not in the audit log: the manifest is
	BlobMounted EventKind = "mountBlob"  // a repository has a blob of another one. Not in the audit log: the manifest is
	BlobDeleted EventKind = "deleteBlob" // a repository no longer has a blob; its bytes go when no repository has it

	RetentionApplied EventKind = "retention"    // rules deleted tags of a repository
	RetentionAsked   EventKind = "runRetention" // somebody asked for the rules to be applied now
)

// Deeds on the rules that hold for repositories.
const (
	InstanceTagPolicySet       EventKind = "setInstanceTagPolicy"
	TeamTagPolicySet           EventKind = "setTeamTagPolicy"
	TeamTagPolicyDeleted       EventKind = "deleteTeamTagPolicy" // the team follows the instance
	RepositoryTagPolicySet     EventKind = "setRepositoryTagPolicy"
	RepositoryTagPolicyDeleted EventKind = "deleteRepositoryTagPolicy" // the repository follows its team

	TeamRetentionSet           EventKind = "setTeamRetention"
	TeamRetentionDeleted       EventKind = "deleteTeamRetention"
	RepositoryRetentionSet     EventKind = "setRepositoryRetention"
	RepositoryRetentionDeleted EventKind = "deleteRepositoryRetention" // the repository follows its team

	QuotaSet     EventKind = "setTeamQuota"
	QuotaDeleted EventKind = "deleteTeamQuota"
)

// Deeds on people, what they may, and what they sign in with.
const (
	UserCreated EventKind = "createUser"
	UserChanged EventKind = "updateUser"
	UserDeleted EventKind = "deleteUser"
	PasswordSet EventKind = "setPassword"

	TokenCreated EventKind = "createToken" // a personal token
	TokenRotated EventKind = "rotateToken" // it has a new secret
	TokenDeleted EventKind = "deleteToken"
	RobotCreated EventKind = "createRobot" // a token of a team
	RobotRotated EventKind = "rotateRobot"
	RobotDeleted EventKind = "deleteRobot"

	TeamCreated   EventKind = "createTeam" // also of a team that only a provider knew, at its first use
	TeamChanged   EventKind = "updateTeam"
	TeamDeleted   EventKind = "deleteTeam"
	MemberPut     EventKind = "putMember" // a user is in a team, with a role
	MemberRemoved EventKind = "removeMember"

	GroupCreated       EventKind = "createGroup"
	GroupChanged       EventKind = "updateGroup"
	GroupDeleted       EventKind = "deleteGroup"
	GroupMemberPut     EventKind = "putGroupMember"
	GroupMemberRemoved EventKind = "removeGroupMember"

	UserGrantPut      EventKind = "putUserGrant" // a user has exactly these actions on a pattern
	UserGrantDeleted  EventKind = "deleteUserGrant"
	GroupGrantPut     EventKind = "putGroupGrant"
	GroupGrantDeleted EventKind = "deleteGroupGrant"
	DenialPut         EventKind = "putDenial" // somebody may not, whatever else says so
	DenialDeleted     EventKind = "deleteDenial"

	TrustIssuerPut     EventKind = "putTrustIssuer" // jobs of a CI may sign in with its tokens
	TrustIssuerDeleted EventKind = "deleteTrustIssuer"
	TrustOwnersSet     EventKind = "setTrustOwners" // whose the jobs of an issuer are
	TrustPolicyPut     EventKind = "putTrustPolicy" // which jobs may what
	TrustPolicyDeleted EventKind = "deleteTrustPolicy"

	AccountPut         EventKind = "putAccount" // an AWS account may pull
	AccountDeleted     EventKind = "deleteAccount"
	AccountRolePut     EventKind = "putAccountRole" // roles of an AWS account
	AccountRoleDeleted EventKind = "deleteAccountRole"

	ServicePut     EventKind = "putService" // another registry may ask for tokens here
	ServiceDeleted EventKind = "deleteService"
	KeyRotated     EventKind = "rotateKey" // tokens are signed with a new key
	KeyRetired     EventKind = "retireKey" // a key is no longer believed

	// SignedIn is a sign-in that failed, or was refused. One that succeeds is not recorded.
	SignedIn EventKind = "signIn"
)

// Jobs that somebody asked for, or ended before their time.
const (
	CollectorRun       EventKind = "runCollector"
	CheckStarted       EventKind = "startCheck"
	CheckCancelled     EventKind = "cancelCheck"
	BackupStarted      EventKind = "startBackup"
	BackupCancelled    EventKind = "cancelBackup"
	RestoreStarted     EventKind = "startRestore"
	RestoreCancelled   EventKind = "cancelRestore"
	MigrationStarted   EventKind = "startMigration"
	MigrationCancelled EventKind = "cancelMigration"
)

// kinds says of each kind whether the audit log has a line of it.
var kinds = map[EventKind]bool{
	RepositoryCreated: true, RepositoryChanged: true, RepositoryDeleted: true,
	ManifestPushed: true, ManifestDeleted: true,
	TagCreated: false, TagMoved: true, TagDeleted: true, DeletedRestored: true,
	BlobPushed: false, BlobMounted: false, BlobDeleted: true,
	RetentionApplied: true, RetentionAsked: true,
	InstanceTagPolicySet: true, TeamTagPolicySet: true, TeamTagPolicyDeleted: true,
	RepositoryTagPolicySet: true, RepositoryTagPolicyDeleted: true,
	TeamRetentionSet: true, TeamRetentionDeleted: true,
	RepositoryRetentionSet: true, RepositoryRetentionDeleted: true,
	QuotaSet: true, QuotaDeleted: true,
	UserCreated: true, UserChanged: true, UserDeleted: true, PasswordSet: true,
	TokenCreated: true, TokenRotated: true, TokenDeleted: true,
	RobotCreated: true, RobotRotated: true, RobotDeleted: true,
	TeamCreated: true, TeamChanged: true, TeamDeleted: true, MemberPut: true, MemberRemoved: true,
	GroupCreated: true, GroupChanged: true, GroupDeleted: true, GroupMemberPut: true, GroupMemberRemoved: true,
	UserGrantPut: true, UserGrantDeleted: true, GroupGrantPut: true, GroupGrantDeleted: true,
	DenialPut: true, DenialDeleted: true,
	TrustIssuerPut: true, TrustIssuerDeleted: true, TrustOwnersSet: true, TrustPolicyPut: true, TrustPolicyDeleted: true,
	AccountPut: true, AccountDeleted: true, AccountRolePut: true, AccountRoleDeleted: true,
	ServicePut: true, ServiceDeleted: true, KeyRotated: true, KeyRetired: true,
	SignedIn:     true,
	CollectorRun: true, CheckStarted: true, CheckCancelled: true,
	BackupStarted: true, BackupCancelled: true, RestoreStarted: true, RestoreCancelled: true,
	MigrationStarted: true, MigrationCancelled: true,
}

// Known reports whether the kind is one of those of this package.
func (k EventKind) Known() bool { _, ok := kinds[k]; return ok }

// Event is one deed, or one that was refused: what was done, by whom, to what. It carries
// all that the audit log tells and all that somebody who is told of it asks for, so that
// nobody reads a row again that may be gone by then. It never holds a secret.
//
// A push is several events: of the manifest, of each tag that was made or moved, and before
// them of the repository that came to be. Each has all of the fields that it knows.
type Event struct {
	At         time.Time // the zero value is the time of the transaction
	Kind       EventKind // of what was refused it may also be the operation that was asked for, such as pull
	Outcome    string    // "" is AuditOK
	Actor      Actor
	Team       string // "" is the first part of Repository
	Repository string
	Reference  string // a tag, or what else the deed is about: the name of a user, a token ...

	Digest       digest.Digest // of the manifest or blob; of a tag, where it points now, or pointed until it was deleted
	Previous     digest.Digest // of a tag that moved: where it pointed before
	MediaType    string        // of the manifest
	ArtifactType string        // of the manifest, "" for none
	Subject      digest.Digest // that the manifest refers to, "" for none
	Size         int64         // of the manifest or blob, bytes
	Tags         []string      // of a manifest, that point to it by this deed or went with it
	From         string        // of a mounted blob: the repository that had it

	Detail map[string]any // what else the audit log tells; becomes a JSON object
	Count  int64          // how often it happened; 0 is 1
}

// refused reports whether the deed was not done.
func (e *Event) refused() bool { return e.Outcome != "" && e.Outcome != AuditOK }

// audited reports whether the audit log has a line of the event: of every refusal, and of
// the deeds that it has.
func (e *Event) audited() bool { return kinds[e.Kind] || e.refused() }

// detail is the JSON object of the audit line: Detail, and what has no column of its own.
// Names in Detail stand over those of fields.
func (e *Event) detail() string {
	if e.MediaType == "" && e.Previous == "" && len(e.Tags) == 0 {
		return auditDetail(e.Detail)
	}
	all := make(map[string]any, len(e.Detail)+3)
	if e.MediaType != "" {
		all["media_type"] = e.MediaType
	}
	if e.Previous != "" {
		all["previous"] = e.Previous
	}
	if len(e.Tags) > 0 && (len(e.Tags) > 1 || e.Tags[0] != e.Reference) {
		all["tags"] = e.Tags
	}
	for name, value := range e.Detail {
		all[name] = value
	}
	return auditDetail(all)
}

// Record tells of events, in the transaction of the deed: the deed and its record are there
// both, or neither. Nothing else writes the audit log. Events of kinds that the audit log does
// not have cost nothing here. Texts are cut at 512 bytes, and details at 16 KiB. It takes one
// statement for up to 128 events.
func (tx *Tx) Record(ctx context.Context, events ...Event) error {
	lines := make([]*Event, 0, len(events))
	for i := range events {
		e := &events[i]
		if !e.Kind.Known() && !e.refused() {
			return fmt.Errorf("the kind %q of an event is not one of metadata's", e.Kind)
		}
		if e.audited() {
			lines = append(lines, e)
		}
	}
	for len(lines) > 0 {
		n := maxAuditRows // a power of two at a time, so that there are few different texts to prepare
		for n > len(lines) {
			n /= 2
		}
		if err := tx.insertAudit(ctx, lines[:n]); err != nil {
			return fmt.Errorf("writing the audit log: %w", err)
		}
		lines = lines[n:]
	}
	return nil
}

// maxAuditRows keeps the parameters of one statement below both engines' limits.
const maxAuditRows = 128

func (tx *Tx) insertAudit(ctx context.Context, events []*Event) error {
	var b strings.Builder
	b.WriteString(`INSERT INTO audit_events (` + auditColumns + `) VALUES `)
	args := make([]any, 0, len(events)*auditColumnCount)
	for i, e := range events {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for c := range auditColumnCount {
			if c > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(len(args)+c+1))
		}
		b.WriteByte(')')
		at := tx.now
		if !e.At.IsZero() {
			at = e.At
		}
		outcome := e.Outcome
		if outcome == "" {
			outcome = AuditOK
		}
		team := e.Team
		if team == "" && e.Repository != "" {
			team = oci.Team(e.Repository)
		}
		args = append(args, micros(at), rand.Int64(), auditText(string(e.Kind)), outcome, auditText(e.Actor.Name), auditText(e.Actor.Kind),
			auditText(e.Actor.Address), auditText(e.Actor.RequestID), auditText(e.Actor.UserAgent), auditDetail(e.Actor.Claims),
			auditText(team), auditText(e.Repository), auditText(e.Reference), auditText(string(e.Digest)), e.detail(), max(1, e.Count))
	}
	_, err := tx.exec(ctx, b.String(), args...)
	return err
}
