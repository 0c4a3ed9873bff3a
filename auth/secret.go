package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"regexp"
	"strings"
)

// Prefixes of token secrets, so that people and secret scanners recognise them.
const (
	PersonalPrefix = "berth_pat_"
	RobotPrefix    = "berth_rob_"
	DeployPrefix   = "berth_dep_"
)

// cutPrefix takes the prefix off what looks like a token's secret.
func cutPrefix(s string) (rest string, ok bool) {
	for _, prefix := range [...]string{PersonalPrefix, RobotPrefix, DeployPrefix} {
		if rest, ok = strings.CutPrefix(s, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

const (
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretRandom = 32 // characters, 190 bits
	secretCheck  = 6  // characters that hold a CRC-32
)

// NewSecret makes the secret of a token (with one of the prefixes above):
// the prefix, 32 random base62 characters, and 6 that are the CRC-32 of all
// before them. The secret is shown once; only the hash is stored.
func NewSecret(prefix string) (secret, hash string) {
	var b strings.Builder
	b.WriteString(prefix)
	for b.Len() < len(prefix)+secretRandom {
		var random [64]byte
		_, _ = rand.Read(random[:]) // never fails: see crypto/rand
		for _, r := range random {
			// 248 = 4*62: a larger value would make the first characters likelier.
			if r < 248 && b.Len() < len(prefix)+secretRandom {
				b.WriteByte(base62[r%62])
			}
		}
	}
	secret = b.String()
	secret += checksum(secret)
	return secret, SecretHash(secret)
}

// SecretHash is what is stored of a token's secret: SHA-256 in lower-case hex. A
// slow hash has nothing to protect here, for the secret cannot be guessed.
func SecretHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// PairHash is what is stored of a d.ims.io token, a user name and a password that
// are both random and stand in docker's configuration as they are: the SHA-256 of
// "user:password" in lower-case hex. It is never the hash of one of our secrets,
// which have no colon.
func PairHash(user, password string) string { return SecretHash(user + ":" + password) }

// IsSecret reports whether a string is a token's secret: prefix, length,
// alphabet and checksum are right. It asks no database, so that typing
// mistakes and guesses cost nothing.
func IsSecret(s string) bool {
	rest, ok := cutPrefix(s)
	if !ok || len(rest) != secretRandom+secretCheck {
		return false
	}
	for i := range len(rest) {
		if !alphanumeric(rest[i]) {
			return false
		}
	}
	return checksum(s[:len(s)-secretCheck]) == s[len(s)-secretCheck:]
}

// secrets are the forms of the tokens that we hand out, anywhere in a text: those of the database, and JSON Web Tokens
// of two or three parts. What stands before a token of ours may touch it.
var secrets = regexp.MustCompile(`(berth_[a-z]+_)[A-Za-z0-9]+|\bey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?`)

// MaskSecrets gives a text for a log, with *** in place of the tokens in it, whole or cut short. Which kind of token it was
// stays, for that helps to find its owner.
func MaskSecrets(text string) string {
	if !strings.Contains(text, "berth_") && !strings.Contains(text, "ey") {
		return text // nearly always
	}
	return secrets.ReplaceAllString(text, "${1}***")
}

// LooksLikeJWT reports whether a credential has the form of a JSON Web Token:
// three parts, of which the first is a JSON object in base64url (RFC 7515).
func LooksLikeJWT(s string) bool { return strings.HasPrefix(s, "ey") && strings.Count(s, ".") == 2 }

// LooksLikeSecret reports whether a credential begins like the secret of a token: somebody
// meant to show one, so that it is nobody's password. Whether it can be one is for
// IsSecret.
func LooksLikeSecret(s string) bool {
	_, ok := cutPrefix(s)
	return ok
}

func checksum(s string) string {
	var out [secretCheck]byte
	sum := crc32.ChecksumIEEE([]byte(s))
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}
