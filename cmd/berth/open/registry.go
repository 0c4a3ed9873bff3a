package main

import "berth/registry"

// registryOptions are what the settings say about the registry.
func registryOptions(c *config) registry.Options {
	o := registry.Options{
		DefaultVisibility: c.Visibility,
		AllowSparse:       c.SparseIndex,
		MaxManifestSize:   c.MaxManifestSize,
		UploadTTL:         c.UploadTTL,
		MaxUploads:        c.MaxUploads,
		GCGrace:           c.GCGrace,
		UntaggedTTL:       c.UntaggedTTL,
		UndoWindow:        c.UndoWindow,
	}
	if c.StorageRedirect {
		o.ReadTTL = c.RedirectTTL
	}
	return o
}
