//go:build !linux

package main

// dropProgram does nothing: other systems do without.
func dropProgram() {}
