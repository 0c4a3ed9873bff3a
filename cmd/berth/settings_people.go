package main

import "time"

// peopleSettings are those of users, whoever vouches for them.
func peopleSettings() []setting {
	return []setting{
		durationSetting("external_max_age", "720h", "how long the word of an identity provider about a user counts; after that the user's tokens are refused until the next sign-in there",
			func(c *config) *time.Duration { return &c.ExternalMaxAge }, time.Hour, 10*365*24*time.Hour),
	}
}
