//! The requests of the command line about verifications, loads and jobs.

use http::Method;
use serde::Deserialize;

use super::client::{AdminClient, AdminError};
use super::jobs::JobStatus;
use crate::manage::{LoadRequest, VerifyRequest};

#[derive(Deserialize)]
struct StartedJob {
    job: u64,
}

#[derive(Deserialize)]
struct JobList {
    jobs: Vec<JobStatus>,
}

impl AdminClient {
    /// Starts a verification. Returns the identifier of its job.
    ///
    /// # Errors
    ///
    /// The request failed. No job has started.
    pub fn start_verify(&self, request: &VerifyRequest) -> Result<u64, AdminError> {
        let body = serde_json::to_vec(request).expect("a request is strings and numbers");
        let started: StartedJob = self.send(Method::POST, "/api/v1/verify", Some(body))?;
        Ok(started.job)
    }

    /// Starts a load. Returns the identifier of its job.
    ///
    /// # Errors
    ///
    /// The request failed. No job has started.
    pub fn start_load(&self, request: &LoadRequest) -> Result<u64, AdminError> {
        let body = serde_json::to_vec(request).expect("a request is strings and numbers");
        let started: StartedJob = self.send(Method::POST, "/api/v1/preload", Some(body))?;
        Ok(started.job)
    }

    /// Returns all jobs without their results, the newest first.
    ///
    /// # Errors
    ///
    /// The request failed.
    pub fn jobs(&self) -> Result<Vec<JobStatus>, AdminError> {
        let list: JobList = self.send(Method::GET, "/api/v1/jobs", None)?;
        Ok(list.jobs)
    }

    /// Returns a job.
    ///
    /// # Errors
    ///
    /// The request failed, or the job is unknown.
    pub fn job(&self, id: u64) -> Result<JobStatus, AdminError> {
        self.send(Method::GET, &format!("/api/v1/jobs/{id}"), None)
    }

    /// Cancels a job.
    ///
    /// # Errors
    ///
    /// The request failed, or the job is unknown.
    pub fn cancel_job(&self, id: u64) -> Result<JobStatus, AdminError> {
        self.send(Method::DELETE, &format!("/api/v1/jobs/{id}"), None)
    }
}
