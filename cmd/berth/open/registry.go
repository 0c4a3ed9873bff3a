package open

import (
	"berth/registry"
	"berth/registry/collect"

	"berth/cmd/berth/settings"
)

// RegistryOptions are what the settings say about the registry.
func RegistryOptions(c *settings.Config) registry.Options {
	return registry.Options{
		DefaultVisibility: c.Visibility,
		AllowSparse:       c.SparseIndex,
		MaxManifestSize:   c.MaxManifestSize,
		MaxUploads:        c.MaxUploads,
		UntaggedTTL:       c.UntaggedTTL,
		UndoWindow:        c.UndoWindow,
	}
}

// CollectorOptions are what the settings say about what the registry no longer needs.
func CollectorOptions(c *settings.Config) collect.Options {
	o := collect.Options{UploadTTL: c.UploadTTL, Grace: c.GCGrace, UntaggedTTL: c.UntaggedTTL, UndoWindow: c.UndoWindow}
	if c.StorageRedirect {
		o.ReadTTL = c.RedirectTTL
	}
	return o
}
