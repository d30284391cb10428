//! Questions to the API server that are put as objects which are not stored.

use kube_core::Resource;
use kube_core::params::PostParams;
use kube_core::request::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::verbs::parse;
use super::{Call, CallError, Cause, Cluster};

impl Cluster {
    /// The review with its answer. Nothing is stored, so that it is repeated like a read.
    pub(crate) async fn review<K>(&self, question: &K) -> Result<K, CallError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let object = K::plural(&());
        let call = Call { verb: "create", object: &object };
        let body = serde_json::to_vec(question)
            .map_err(|_| call.failed(Cause::Request("it has no JSON form".to_owned())))?;
        let request = || Request::new(K::url_path(&(), None)).create(&PostParams::default(), body.clone());
        let answer = self.read(&call, request).await?;
        parse(&call, &answer)
    }
}
