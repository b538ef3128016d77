package qtools.sample

import android.Manifest
import android.graphics.Color
import android.os.Bundle
import android.view.Gravity
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.FrameLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import androidx.camera.view.PreviewView
import java.util.concurrent.Executors
import qtools.core.Picture
import qtools.vision.Classifier
import qtools.vision.Detector
import qtools.vision.Network
import qtools.vision.toPicture

/** The camera's picture, and above it what the last frame shows, and how long that took. */
class CameraActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var network: Network? = null // the worker's alone
    private lateinit var preview: PreviewView
    private lateinit var words: TextView

    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
        if (granted) start() else words.text = "no camera without the permission"
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        preview = PreviewView(this)
        words = TextView(this).apply {
            setTextColor(Color.WHITE)
            setBackgroundColor(Color.argb(160, 0, 0, 0))
            setPadding(32, 32, 32, 96)
        }
        val all = FrameLayout(this)
        all.addView(preview, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        all.addView(words, FrameLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT, Gravity.BOTTOM))
        setContentView(all)
        worker.execute { network = Network.open(applicationContext) }
        permission.launch(Manifest.permission.CAMERA)
    }

    private fun start() {
        val controller = LifecycleCameraController(this)
        controller.setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
        controller.setImageAnalysisAnalyzer(worker, ::answer) // frames that come while it computes are dropped
        controller.bindToLifecycle(this)
        preview.controller = controller
    }

    private fun answer(frame: ImageProxy) {
        val opened = network ?: return frame.close()
        val picture = frame.use { it.toBitmap().toPicture().turned(it.imageInfo.rotationDegrees) }
        val before = System.nanoTime()
        val lines = lines(opened, picture)
        val milliseconds = (System.nanoTime() - before) / 1_000_000
        runOnUiThread { words.text = (lines + "$milliseconds ms").joinToString("\n") }
    }

    /** Of a detector what it is sure of; boxes are not drawn, since the preview shows more than the crop. */
    private fun lines(opened: Network, picture: Picture): List<String> {
        if (opened.contract.decoding == null) {
            return Classifier(opened).classify(picture).map { line(it.probability, it.label, it.index) }
        }
        return Detector(opened).detect(picture).filter { it.score >= SURE }.map { line(it.score, it.label, it.index) }
    }

    private fun line(share: Double, label: String, index: Int): String =
        "%.0f %%  %s".format(100 * share, label.ifEmpty { "class $index" })

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { network?.close() } // behind a frame that is still computed
        worker.shutdown()
    }

    private companion object {
        const val SURE = 0.5
    }
}
