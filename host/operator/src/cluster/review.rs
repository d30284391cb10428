//! Reviews: requests to the API server in the form of objects that it does not store.

use kube_core::Resource;
use kube_core::params::PostParams;
use kube_core::request::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::verbs::parse;
use super::{Call, CallError, Cause, Cluster};

impl Cluster {
    /// The review with its result. Nothing is stored, so it is retried like a read.
    pub(crate) async fn review<K>(&self, request: &K) -> Result<K, CallError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let object = K::plural(&());
        let call = Call { verb: "create", object: &object };
        let body = serde_json::to_vec(request)
            .map_err(|_| call.failed(Cause::Request("it cannot be serialized".to_owned())))?;
        let request = || Request::new(K::url_path(&(), None)).create(&PostParams::default(), body.clone());
        let body = self.read(&call, request).await?;
        parse(&call, &body)
    }
}
