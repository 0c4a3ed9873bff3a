//go:build !linux

package serve

// dropProgram does nothing: other systems do without.
func dropProgram() {}
