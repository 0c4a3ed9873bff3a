package open

import (
	"berth/registry"

	"berth/cmd/berth/settings"
)

// RegistryOptions are what the settings say about the registry.
func RegistryOptions(c *settings.Config) registry.Options {
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
