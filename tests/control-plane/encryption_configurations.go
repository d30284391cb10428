package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// marker is the value that the first provider of each resource stores.
const marker = "marker"

// understood is the result of the API server's decoder for one file.
type understood struct {
	// Error is empty if the API server loads the file.
	Error string `json:"error,omitempty"`
	// Lists has the ordered providers of each resource. If several entries name a resource, their lists are
	// appended.
	Lists map[string][]provider `json:"lists,omitempty"`
	// Stored has the marker as the first provider of each resource stores it, in hex. It is set only if no
	// provider is a KMS plugin.
	Stored map[string]string `json:"stored,omitempty"`
}

type provider struct {
	Kind string `json:"kind"`
	Keys []key  `json:"keys,omitempty"`
	KMS  *kms   `json:"kms,omitempty"`
}

type key struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

type kms struct {
	APIVersion   string `json:"apiVersion"`
	Name         string `json:"name"`
	Endpoint     string `json:"endpoint"`
	TimeoutNanos int64  `json:"timeoutNanos"`
	CacheSize    *int32 `json:"cacheSize"`
}

// encryptionConfigurations reads files from standard input, each after its length in decimal digits and a
// line break, and prints one line of JSON for each: how the API server reads it.
func encryptionConfigurations() {
	if err := understandAll(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func understandAll() error {
	scheme := runtime.NewScheme()
	if err := apiserver.AddToScheme(scheme); err != nil {
		return err
	}
	if err := apiserverv1.AddToScheme(scheme); err != nil {
		return err
	}
	// The same decoder as in LoadEncryptionConfig, which does not export it.
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder()
	folder, err := os.MkdirTemp("", "encryption-configurations")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	input := bufio.NewReader(os.Stdin)
	output := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(output)
	for {
		var length int
		if _, err := fmt.Fscanf(input, "%d\n", &length); err == io.EOF {
			return output.Flush()
		} else if err != nil {
			return err
		}
		file := make([]byte, length)
		if _, err := io.ReadFull(input, file); err != nil {
			return err
		}
		found, err := understand(decoder, folder, file)
		if err != nil {
			found = &understood{Error: err.Error()}
		}
		if err := lines.Encode(found); err != nil {
			return err
		}
	}
}

func understand(decoder runtime.Decoder, folder string, file []byte) (*understood, error) {
	object, _, err := decoder.Decode(file, nil, nil)
	if err != nil {
		return nil, err
	}
	config, ok := object.(*apiserver.EncryptionConfiguration)
	if !ok {
		return nil, fmt.Errorf("the object is a %T", object)
	}
	if err := validation.ValidateEncryptionConfiguration(config, true).ToAggregate(); err != nil {
		return nil, err
	}
	found := &understood{Lists: map[string][]provider{}}
	local := true
	for _, entry := range config.Resources {
		providers, err := providersOf(entry)
		if err != nil {
			return nil, err
		}
		for _, one := range providers {
			local = local && one.KMS == nil
		}
		for _, name := range entry.Resources {
			resource := schema.ParseGroupResource(name).String()
			found.Lists[resource] = append(found.Lists[resource], providers...)
		}
	}
	// Loading a KMS provider would call its plugin, and block for its timeout.
	if local {
		found.Stored, err = stored(folder, file, found.Lists)
	}
	return found, err
}

func providersOf(entry apiserver.ResourceConfiguration) ([]provider, error) {
	var providers []provider
	for _, one := range entry.Providers {
		var found provider
		var err error
		switch {
		case one.AESGCM != nil:
			found, err = local("aesgcm", one.AESGCM.Keys)
		case one.AESCBC != nil:
			found, err = local("aescbc", one.AESCBC.Keys)
		case one.Secretbox != nil:
			found, err = local("secretbox", one.Secretbox.Keys)
		case one.KMS != nil:
			found = provider{Kind: "kms", KMS: &kms{
				APIVersion:   one.KMS.APIVersion,
				Name:         one.KMS.Name,
				Endpoint:     one.KMS.Endpoint,
				TimeoutNanos: one.KMS.Timeout.Nanoseconds(),
				CacheSize:    one.KMS.CacheSize,
			}}
		default:
			found = provider{Kind: "identity"}
		}
		if err != nil {
			return nil, err
		}
		providers = append(providers, found)
	}
	return providers, nil
}

func local(kind string, keys []apiserver.Key) (provider, error) {
	found := provider{Kind: kind}
	for _, one := range keys {
		secret, err := base64.StdEncoding.DecodeString(one.Secret)
		if err != nil {
			return found, err
		}
		sum := sha256.Sum256(secret)
		found.Keys = append(found.Keys, key{Name: one.Name, SHA256: hex.EncodeToString(sum[:])})
	}
	return found, nil
}

// stored loads the file as the API server does, and transforms the marker as an object of each resource.
func stored(folder string, file []byte, lists map[string][]provider) (map[string]string, error) {
	path := filepath.Join(folder, "config")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, path, true, "test")
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for resource := range lists {
		transformer := loaded.Transformers[schema.ParseGroupResource(resource)]
		if transformer == nil {
			return nil, fmt.Errorf("%s has no transformer", resource)
		}
		at := value.DefaultContext("/registry/test")
		bytesStored, err := transformer.TransformToStorage(ctx, []byte(marker), at)
		if err != nil {
			return nil, err
		}
		read, _, err := transformer.TransformFromStorage(ctx, bytesStored, at)
		if err != nil || !bytes.Equal(read, []byte(marker)) {
			return nil, fmt.Errorf("%s cannot read what it writes: %v", resource, err)
		}
		all[resource] = hex.EncodeToString(bytesStored)
	}
	return all, nil
}
