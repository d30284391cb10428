// Command control-plane is the real control plane of the tests: etcd, kube-apiserver and
// kube-controller-manager as subcommands of one binary; kubeadm, which writes the manifests that `prepare`
// edits; and subcommands that show how upstream reads files, for comparison.
//
// What may come in: the start of upstream commands, and variables that upstream exports. What never does: a
// change of how an API server stores, encrypts or serves.
package main

import (
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
	encryptionconfigcontroller "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
)

// filePoll is the environment variable with the interval at which the API server reads its encryption
// configuration (a Go duration, one minute by default), so that a test sees a reload within a second.
const filePoll = "KEYWARD_TEST_ENCRYPTION_CONFIG_POLL"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: control-plane etcd|kube-apiserver|kube-controller-manager|kubeadm [flags]")
		os.Exit(2)
	}
	component := os.Args[1]
	os.Args = append([]string{component}, os.Args[2:]...)
	switch component {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		if text := os.Getenv(filePoll); text != "" {
			poll, err := time.ParseDuration(text)
			if err != nil || poll <= 0 {
				fmt.Fprintf(os.Stderr, "error: %s=%q is not a positive Go duration\n", filePoll, text)
				os.Exit(2)
			}
			encryptionconfigcontroller.EncryptionConfigFileChangePollDuration = poll
		}
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "pod":
		os.Exit(podCommand())
	case "encryption-configurations":
		encryptionConfigurations()
	case "kubeadm":
		if err := kubeadm.Run(); err != nil {
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "error: unknown component %q; one of etcd, kube-apiserver, kube-controller-manager, kubeadm\n", component)
		os.Exit(2)
	}
}
