package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	"k8s.io/component-base/logs"
	"k8s.io/component-base/version/verflag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// question is one input line. Exactly one field is set.
type question struct {
	// Pod is a static pod manifest.
	Pod *string `json:"pod"`
	// Words are arguments of kube-apiserver, without the program name.
	Words    []string `json:"words"`
	Quantity *string  `json:"quantity"`
	Duration *string  `json:"duration"`
	// Names requests the names of kube-apiserver's flags.
	Names bool `json:"names"`
}

// answer is one output line. Without an error, the requested field is set.
type answer struct {
	Error    string            `json:"error,omitempty"`
	Pod      *pod              `json:"pod,omitempty"`
	Flags    map[string]string `json:"flags,omitempty"`
	Quantity string            `json:"quantity,omitempty"`
	Duration int64             `json:"duration,omitempty"`
	// Names maps each flag to true if it takes no value as a separate argument.
	Names map[string]bool `json:"names,omitempty"`
}

type pod struct {
	Name       string      `json:"name"`
	Containers []container `json:"containers"`
	Volumes    []volume    `json:"volumes"`
}

type container struct {
	Name   string            `json:"name"`
	Image  string            `json:"image"`
	Words  []string          `json:"words"`
	Mounts []mount           `json:"mounts"`
	Probes map[string]string `json:"probes"`
}

type mount struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	SubPath string `json:"subPath"`
}

type volume struct {
	Name string `json:"name"`
	// HostPath is absent if the volume is not a path of the node.
	HostPath *string `json:"hostPath"`
	Type     string  `json:"type"`
}

// answerPods reads questions, one JSON object per line, and writes one answer per line: how the kubelet reads
// static pod manifests, how kube-apiserver reads its flags, and how both read quantities and durations.
func answerPods(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	answers := bufio.NewWriter(out)
	encoder := json.NewEncoder(answers)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return fmt.Errorf("question: %w", err)
		}
		if err := encoder.Encode(reply(&asked)); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return answers.Flush()
}

func reply(asked *question) (found answer) {
	var err error
	switch {
	case asked.Pod != nil:
		found.Pod, err = readPod([]byte(*asked.Pod))
	case asked.Words != nil:
		found.Flags, err = readFlags(asked.Words)
	case asked.Quantity != nil:
		var quantity resource.Quantity
		if quantity, err = resource.ParseQuantity(*asked.Quantity); err == nil {
			found.Quantity = quantity.AsDec().String()
		}
	case asked.Duration != nil:
		var duration time.Duration
		duration, err = time.ParseDuration(*asked.Duration)
		found.Duration = int64(duration)
	case asked.Names:
		found.Names = map[string]bool{}
		flagSet().VisitAll(func(flag *pflag.Flag) {
			found.Names[flag.Name] = flag.NoOptDefVal != ""
		})
	default:
		err = fmt.Errorf("the question has no field")
	}
	if err != nil {
		return answer{Error: err.Error()}
	}
	return found
}

// readPod does what the kubelet does with a file in its manifest folder. pkg/kubelet/config does not export
// its function.
func readPod(manifest []byte) (*pod, error) {
	text, err := utilyaml.ToJSON(manifest)
	if err != nil {
		return nil, err
	}
	object, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), text)
	if err != nil {
		return nil, err
	}
	decoded, ok := object.(*api.Pod)
	if !ok {
		return nil, fmt.Errorf("the object is a %T", object)
	}
	if decoded.Name == "" {
		return nil, fmt.Errorf("the pod has no name")
	}
	if decoded.Namespace == "" {
		decoded.Namespace = "default"
	}
	allowed := podutil.GetValidationOptionsFromPodSpecAndMeta(&decoded.Spec, nil, &decoded.ObjectMeta, nil)
	if errs := validation.ValidatePodCreate(decoded, allowed); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	read := &pod{Name: decoded.Name}
	for _, list := range [][]api.Container{decoded.Spec.InitContainers, decoded.Spec.Containers} {
		for i := range list {
			read.Containers = append(read.Containers, readContainer(&list[i]))
		}
	}
	for i := range decoded.Spec.Volumes {
		from := &decoded.Spec.Volumes[i]
		one := volume{Name: from.Name}
		if from.HostPath != nil {
			one.HostPath = &from.HostPath.Path
			if from.HostPath.Type != nil {
				one.Type = string(*from.HostPath.Type)
			}
		}
		read.Volumes = append(read.Volumes, one)
	}
	return read, nil
}

func readContainer(from *api.Container) container {
	read := container{Name: from.Name, Image: from.Image, Probes: map[string]string{}}
	read.Words = append(append(read.Words, from.Command...), from.Args...)
	for i := range from.VolumeMounts {
		from := &from.VolumeMounts[i]
		read.Mounts = append(read.Mounts, mount{from.Name, from.MountPath, from.SubPath + from.SubPathExpr})
	}
	for name, probe := range map[string]*api.Probe{"livenessProbe": from.LivenessProbe, "startupProbe": from.StartupProbe} {
		switch {
		case probe == nil:
		case probe.HTTPGet != nil:
			read.Probes[name] = probe.HTTPGet.Path
		case probe.Exec != nil:
			read.Probes[name] = "command"
		default:
			read.Probes[name] = "port"
		}
	}
	return read
}

// flagSet is the flag set of kube-apiserver's command.
func flagSet() *pflag.FlagSet {
	all := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	all.SetOutput(io.Discard)
	all.Usage = func() {}
	all.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	named := options.NewServerRunOptions().Flags()
	verflag.AddFlags(named.FlagSet("global"))
	globalflag.AddGlobalFlags(named.FlagSet("global"), all.Name(), logs.SkipLoggingConfigurationFlags())
	for _, set := range named.FlagSets {
		all.AddFlagSet(set)
	}
	return all
}

// readFlags returns the given flags that Keyward reads.
func readFlags(words []string) (map[string]string, error) {
	set := flagSet()
	if err := set.Parse(words); err != nil {
		return nil, err
	}
	for _, word := range set.Args() {
		if word != "" {
			return nil, fmt.Errorf("kube-apiserver does not take any arguments, got %q", set.Args())
		}
	}
	read := map[string]string{}
	for _, name := range []string{"encryption-provider-config", "encryption-provider-config-automatic-reload", "request-timeout"} {
		if flag := set.Lookup(name); flag != nil && flag.Changed {
			read[name] = flag.Value.String()
		}
	}
	return read, nil
}

func podCommand() int {
	if err := answerPods(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return 1
	}
	return 0
}
