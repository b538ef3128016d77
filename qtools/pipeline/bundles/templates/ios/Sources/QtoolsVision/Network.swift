// The network, run by Core ML. The picture that goes in is the one that QtoolsPreparation made, to the byte: neither
// Core ML nor Vision scales it. (VNCoreMLRequest and VNImageCropAndScaleOption resize with filters of their own, which
// are not the contract's, so Vision has no part in this.)

#if canImport(CoreML)
import CoreML
import Foundation
import QtoolsPreparation

/// The artifact with its contract. One picture at a time: calls from several threads wait for each other, because Core
/// ML's synchronous predictions of one model must not overlap. Of what it holds, only the model is not Sendable itself.
public final class Network: @unchecked Sendable {
    public let contract: Contract
    private let model: MLModel
    private let turn = NSLock()

    /// Opens what the package carries.
    public static func carried(units: MLComputeUnits = .all) async throws -> Network {
        let contract = try Assets.contract()
        return try await Network(contract, package: Assets.artifact(contract), units: units)
    }

    /// Opens a .mlpackage, compiled on the device once and kept among its caches under the artifact's digest.
    ///
    /// `units`: the vectors were recorded without a Neural Engine; replay them on the units that the app will use.
    public init(_ contract: Contract, package: URL, units: MLComputeUnits = .all) async throws {
        self.contract = contract
        let settings = MLModelConfiguration()
        settings.computeUnits = units
        let compiled = try await Network.compiled(package, digest: contract.artifact.sha256)
        model = try await MLModel.load(contentsOf: compiled, configuration: settings)
    }

    /// The numbers of each output for those of the input, all as the artifact has them, in the contract's order.
    public func run(_ tensor: [Float]) throws -> [[Float]] {
        let name = contract.input.name
        guard let wanted = model.modelDescription.inputDescriptionsByName[name] else {
            throw Mismatch(what: "the model has no input \(name)")
        }
        let given = try MLDictionaryFeatureProvider(dictionary: [name: value(tensor, wanted)])
        return try autoreleasepool {  // a task of async code drains no pool of its own, and frames would pile up
            let answers = try turn.withLock { try model.prediction(from: given) }
            return try contract.outputs.map { said in
                guard let answer = answers.featureValue(for: said.name) else {
                    throw Mismatch(what: "the model has no output \(said.name)")
                }
                return try said.byLabel ? ordered(answer) : flat(answer, said)
            }
        }
    }

    private func value(_ tensor: [Float], _ wanted: MLFeatureDescription) throws -> MLFeatureValue {
        switch contract.input.kind {
        case .image:
            let size = contract.preparation.size
            return MLFeatureValue(pixelBuffer: try pixelBuffer(bgra(tensor, contract), height: size[0], width: size[1]))
        case .tensor:
            guard let constraint = wanted.multiArrayConstraint else {
                throw Mismatch(what: "the input \(contract.input.name) is no array")
            }
            let array = try multiArray(tensor, shape: contract.input.shape, type: constraint.dataType)
            return MLFeatureValue(multiArray: array)
        }
    }

    private func flat(_ answer: MLFeatureValue, _ said: Output) throws -> [Float] {
        guard let array = answer.multiArrayValue else { throw Mismatch(what: "the output \(said.name) is no array") }
        return try floats(of: array)
    }

    /// A classifier answers with a dictionary from label to number; the contract's labels give the order.
    private func ordered(_ answer: MLFeatureValue) throws -> [Float] {
        return try contract.labels.map { label in
            guard let number = answer.dictionaryValue[label] else {
                throw Mismatch(what: "the answer has no label \(label)")
            }
            return number.floatValue
        }
    }

    private static func compiled(_ package: URL, digest: String) async throws -> URL {
        let files = FileManager.default
        let caches = try files.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let kept = caches.appendingPathComponent("qtools-\(digest).mlmodelc")
        if files.fileExists(atPath: kept.path) { return kept }
        let made = try await MLModel.compileModel(at: package)
        do {
            try files.moveItem(at: made, to: kept)
        } catch {
            // another instance was faster, or there is no room: in either case `made` is still a compiled model
            return files.fileExists(atPath: kept.path) ? kept : made
        }
        return kept
    }
}

/// The model is not what the contract says.
public struct Mismatch: Error, CustomStringConvertible {
    public let what: String
    public var description: String { what }
}
#endif
